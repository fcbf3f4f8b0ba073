"""Builds the fast engine in place, for development: `python setup_fast.py build_ext --inplace`."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

flags = os.environ.get("SMMAP_CFLAGS", "-O2").split()
engine = Extension(
    "smmap._engine.fast", ["src/smmap/_engine/fast.pyx"], extra_compile_args=flags, extra_link_args=flags
)
setup(name="smmap-fast", package_dir={"": "src"}, packages=[], ext_modules=cythonize([engine], build_dir="build"))
