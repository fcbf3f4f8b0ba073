"""What users of smmap 5 rely on: its names, its own tests, gitdb and GitPython on real repositories."""
