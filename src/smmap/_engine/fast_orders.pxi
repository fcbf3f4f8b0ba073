# Tables of regions, orders of what may be dropped, rents: all in plain C memory. Included by fast.pyx.

cdef inline size_t _hash(long long low, long long high) noexcept:
    cdef unsigned long long mixed = (<unsigned long long>low) * 0x9E3779B97F4A7C15ULL
    mixed ^= (<unsigned long long>high) * 0xC2B2AE3D27D4EB4FULL
    return <size_t>(mixed ^ (mixed >> 29))


cdef int _key(object key, long long* low, long long* high) except -1:
    """A window's key as two numbers."""
    if isinstance(key, tuple):
        low[0], high[0] = key
    else:
        low[0] = key
        high[0] = -1
    return 0


@cython.final
@cython.no_gc_clear
cdef class Table:
    """A file's regions by window, each as long as it lives."""

    cdef Slot* slots
    cdef size_t mask
    cdef Py_ssize_t count
    cdef PyObject* near  # the region of a grid window that was found last, borrowed; or NULL
    cdef Counts counts  # the manager's, once it can have regions; their lock guards all of this
    cdef bint cut  # the file was truncated: no region comes here now

    def __cinit__(self):
        self.counts = _NO_COUNTS

    def __dealloc__(self):
        free(self.slots)

    def __len__(self):
        return self.count

    cdef int belong(self, Counts counts) except -1:
        """Use the lock of this manager's regions from now on."""
        if self.counts is counts:
            return 0
        smmap_lock(&_NO_COUNTS.mutex)
        if self.counts is _NO_COUNTS:
            self.counts = counts
        smmap_unlock(&_NO_COUNTS.mutex)
        if self.counts is not counts:
            raise SystemError("a table of another manager")
        return 0

    cdef bint reserve(self) noexcept:
        """Make room for one more; False if memory is short."""
        cdef size_t mask = self.mask, place, old_mask = self.mask
        cdef Slot* old = self.slots
        cdef Slot* new
        if old is not NULL and 2 * (self.count + 1) <= <Py_ssize_t>mask + 1:
            return True
        mask = 2 * mask + 1 if old is not NULL else 7
        new = <Slot*>calloc(mask + 1, sizeof(Slot))
        if new is NULL:
            return False
        self.slots = new
        self.mask = mask
        if old is not NULL:
            for place in range(old_mask + 1):
                if old[place].region is not NULL:
                    self.slot(old[place].low, old[place].high)[0] = old[place]
            free(old)
        return True

    cdef inline Slot* slot(self, long long low, long long high) noexcept:
        """The slot that has this key, or the free one where it belongs. There is always a free one."""
        cdef size_t place = _hash(low, high) & self.mask
        while self.slots[place].region is not NULL and not (
            self.slots[place].low == low and self.slots[place].high == high
        ):
            place = (place + 1) & self.mask
        return &self.slots[place]

    cdef void put(self, Region region) noexcept:
        """Make a region findable, in place of one with the same key."""
        cdef Slot* slot = self.slot(region.low, region.high)
        if slot.region is NULL:
            self.count += 1
        elif self.near is slot.region:
            self.near = NULL
        slot.low = region.low
        slot.high = region.high
        slot.region = <PyObject*>region

    cdef void forget(self, Region region) noexcept:
        """Remove a region, if it is in the table."""
        cdef size_t place, other, home
        cdef Slot* slot
        if self.near is <PyObject*>region:
            self.near = NULL
        if self.slots is NULL:
            return
        slot = self.slot(region.low, region.high)
        if slot.region is not <PyObject*>region:
            return
        self.count -= 1
        place = slot - self.slots
        other = place
        while True:  # the next ones move up, so that they are still found from where they belong
            self.slots[place].region = NULL
            while True:
                other = (other + 1) & self.mask
                if self.slots[other].region is NULL:
                    return
                home = _hash(self.slots[other].low, self.slots[other].high) & self.mask
                if ((other - home) & self.mask) >= ((other - place) & self.mask):
                    break
            self.slots[place] = self.slots[other]
            place = other

    cdef inline PyObject* at(self, long long low, long long high) noexcept:
        """The living region of a window, borrowed; or NULL."""
        cdef PyObject* region
        if not self.count:
            return NULL
        region = self.slot(low, high).region
        return region if region is not NULL and smmap_lives(region) else NULL

    def find(self, key):
        """The region of a window, if it is mapped."""
        cdef long long low, high
        cdef PyObject* found
        cdef bint held
        _key(key, &low, &high)
        if self.counts is _NO_COUNTS:  # and so it has no region yet. It changes once: not between lock and unlock
            return None
        smmap_lock(&self.counts.mutex)
        found = self.at(low, high)
        held = found is not NULL and smmap_hold(found)
        smmap_unlock(&self.counts.mutex)
        return smmap_held(found) if held else None

    def values(self):
        """The policy's references to mapped regions."""
        cdef Py_ssize_t place = 0
        while True:
            place = self.next(place)
            if place < 0:
                return
            region = self.region_at(place)
            place += 1
            entry = None if region is None else (<Region>region).entry
            region = None
            if entry is not None:
                yield entry

    cdef Py_ssize_t next(self, Py_ssize_t place) noexcept:
        """The first place from this one on that has a region, or -1."""
        if self.counts is _NO_COUNTS:  # as in `find`
            return -1
        smmap_lock(&self.counts.mutex)
        while self.slots is not NULL and place <= <Py_ssize_t>self.mask and self.slots[place].region is NULL:
            place += 1
        if self.slots is NULL or place > <Py_ssize_t>self.mask:
            place = -1
        smmap_unlock(&self.counts.mutex)
        return place

    cdef object region_at(self, Py_ssize_t place):
        """The living region at a place, or None."""
        cdef PyObject* found = NULL
        cdef bint held
        smmap_lock(&self.counts.mutex)
        if place <= <Py_ssize_t>self.mask:
            found = self.slots[place].region
        held = found is not NULL and smmap_hold(found)
        smmap_unlock(&self.counts.mutex)
        return smmap_held(found) if held else None

    def regions(self):
        """All mapped regions."""
        cdef PyObject** found = NULL
        cdef PyObject* region
        cdef Py_ssize_t count = 0, room = 0
        cdef size_t place = 0
        if self.counts is _NO_COUNTS:  # as in `find`
            return []
        while _has_room(&found, &room, self.count):
            smmap_lock(&self.counts.mutex)
            if self.count <= room:
                while self.slots is not NULL and place <= self.mask:
                    region = self.slots[place].region
                    if region is not NULL and smmap_hold(region):
                        found[count] = region
                        count += 1
                    place += 1
                smmap_unlock(&self.counts.mutex)
                break
            smmap_unlock(&self.counts.mutex)  # another thread added some meanwhile
        return _all_of(found, count)


@cython.final
@cython.no_gc_clear
cdef class Node:
    """The link of an item that is not a region."""

    cdef Link link
    cdef object key


cdef Node _new_node(object key):
    """A node that is in no order yet."""
    cdef Node node = Node.__new__(Node)
    node.key = key
    node.link.node = <PyObject*>node
    return node


@cython.final
@cython.no_gc_clear
cdef class Order:
    """The items that may be dropped, by their last use. Keys are entries of regions, or files."""

    cdef smmap_gap gap
    cdef Link ends  # newer: the first to go; older: the last to go
    cdef Py_ssize_t count
    cdef dict nodes  # of keys that are not regions, which are compared by identity
    cdef public long long hits
    cdef public bint crowded
    cdef Counts counts  # their lock guards the links
    cdef smmap_mutex changing  # held while `nodes` and the links are changed together
    cdef smmap_gap behind

    def __cinit__(self):
        self.ends.older = self.ends.newer = &self.ends
        self.nodes = {}
        self.counts = Counts()

    def __dealloc__(self):
        cdef PyObject* node
        cdef PyObject* item
        while self.count:
            smmap_lock(&self.counts.mutex)
            node = self.ends.newer.node
            item = self.take(self.ends.newer)
            smmap_unlock(&self.counts.mutex)
            Py_XDECREF(item)
            Py_XDECREF(node)

    def __len__(self):
        return self.count

    cdef inline Node node_of(self, object key):
        """The node of a key that is not a region; None if there is none."""
        cdef PyObject* found = NULL if type(key) is Entry else smmap_get(self.nodes, key)
        return None if found is NULL else <Node>smmap_held(found)

    cdef inline Link* link_of(self, object key, Node node) noexcept:
        """The link of a key, whether it is in the order or not; NULL if there is none. Under the lock."""
        cdef PyObject* region
        if node is not None:
            return &node.link
        if type(key) is not Entry or (<Entry>key).counts is not self.counts:
            return NULL
        region = (<Entry>key).region
        return NULL if region is NULL else &(<Region>region).link

    cdef inline bint has(self, Link* link) noexcept:
        return link is not NULL and link.order is <void*>self

    cdef inline void touch_link(self, Link* link) noexcept:
        """Move a link of this order to its end."""
        if self.ends.older is not link:
            link.older.newer = link.newer
            link.newer.older = link.older
            self.append(link)

    cdef inline void append(self, Link* link) noexcept:
        link.older = self.ends.older
        link.newer = &self.ends
        link.older.newer = link
        self.ends.older = link

    cdef void put(self, Link* link, PyObject* item) noexcept:
        """Put a link that is in no order at the end of this one. The caller has a reference to the item."""
        Py_INCREF(<object>item)
        Py_XINCREF(link.node)  # the collector may clear `nodes` first
        link.item = item
        link.order = <void*>self
        self.append(link)
        self.count += 1

    cdef PyObject* take(self, Link* link) noexcept:
        """Take an item out of the order; the references to it and to its node become the caller's."""
        link.older.newer = link.newer
        link.newer.older = link.older
        link.order = NULL
        self.count -= 1
        return link.item

    def __contains__(self, key):
        cdef Node node = self.node_of(key)
        cdef bint found
        smmap_lock(&self.counts.mutex)
        found = self.has(self.link_of(key, node))
        smmap_unlock(&self.counts.mutex)
        return found

    def __iter__(self):
        cdef PyObject** found = NULL
        cdef Py_ssize_t count = 0, room = 0
        cdef Link* link
        while _has_room(&found, &room, self.count):
            smmap_lock(&self.counts.mutex)
            if self.count <= room:
                link = self.ends.newer
                while link is not &self.ends:
                    Py_INCREF(<object>link.item)
                    found[count] = link.item
                    count += 1
                    link = link.newer
                smmap_unlock(&self.counts.mutex)
                break
            smmap_unlock(&self.counts.mutex)  # another thread added some meanwhile
        return iter(_all_of(found, count))

    def add(self, key, item):
        """Put `item` last: it is dropped after all others. Ignores a pinned region."""
        if type(key) is Entry:
            self.add_region(key)
        else:
            self.add_node(_new_node(key), item)

    cdef int add_region(self, Entry entry) except -1:
        cdef Link* link
        cdef PyObject* region = NULL
        cdef bint strange
        smmap_lock(&self.counts.mutex)
        link = self.link_of(entry, None)
        strange = entry.counts is not self.counts or (
            link is not NULL and link.order is not NULL and not self.has(link)
        )
        if not strange and link is not NULL and not (<Region>entry.region).pins:
            if self.has(link):
                self.touch_link(link)
            elif smmap_hold(entry.region):
                region = entry.region
                self.put(link, region)
        smmap_unlock(&self.counts.mutex)
        if strange:
            raise SystemError("a region of another manager")
        Py_XDECREF(region)
        return 0

    cdef int add_node(self, Node node, object item) except -1:
        """Insert it, with this node unless its key has one."""
        cdef PyObject* before = NULL
        cdef Node known
        smmap_lock(&self.changing)
        try:
            known = self.nodes.get(node.key)
            if known is None:
                self.nodes[node.key] = known = node
            smmap_lock(&self.counts.mutex)
            if self.has(&known.link):
                before = self.take(&known.link)
            self.put(&known.link, <PyObject*>item)
            smmap_unlock(&self.counts.mutex)
        finally:
            smmap_unlock(&self.changing)
        if before is not NULL:
            Py_DECREF(<object>known.link.node)
            Py_DECREF(<object>before)
        return 0

    def touch(self, key, Py_ssize_t hits=0):
        """`key` is used now, which counts `hits`; return whether it is in the order."""
        return self.used(key, hits)

    cdef bint used(self, object key, Py_ssize_t hits) except -1:
        """The same."""
        cdef Node node = self.node_of(key)
        cdef Link* link
        cdef bint found
        smmap_lock(&self.counts.mutex)
        self.hits += hits
        link = self.link_of(key, node)
        found = self.has(link)
        if found:
            self.touch_link(link)
        smmap_unlock(&self.counts.mutex)
        return found

    def remove(self, key):
        """Remove it, so that it is not dropped; return whether it was in the order."""
        cdef Node node
        cdef Link* link
        cdef PyObject* item = NULL
        smmap_lock(&self.changing)
        try:
            node = self.node_of(key)
            smmap_lock(&self.counts.mutex)
            link = self.link_of(key, node)
            if self.has(link):
                item = self.take(link)
            smmap_unlock(&self.counts.mutex)
            if item is not NULL and node is not None:
                self.nodes.pop(key, None)
        finally:
            smmap_unlock(&self.changing)
        if item is NULL:
            return False
        if node is not None:
            Py_DECREF(node)
        Py_DECREF(<object>item)
        return True

    cdef bint pop(self, PyObject** item) except -1:
        """Take out the least recently used item, with a reference; return whether there is one."""
        cdef PyObject* node = NULL
        cdef bint found
        smmap_lock(&self.changing)
        try:
            smmap_lock(&self.counts.mutex)
            found = self.count > 0
            if found:
                node = self.ends.newer.node
                item[0] = self.take(self.ends.newer)
            smmap_unlock(&self.counts.mutex)
            if node is not NULL:
                self.nodes.pop((<Node>node).key, None)
        finally:
            smmap_unlock(&self.changing)
        Py_XDECREF(node)
        return found

    cdef PyObject* first_out(self) noexcept:
        """The least recently used item, with a reference; NULL if there is none."""
        cdef PyObject* item = NULL
        smmap_lock(&self.counts.mutex)
        if self.count:
            item = self.ends.newer.item
            Py_INCREF(<object>item)
        smmap_unlock(&self.counts.mutex)
        return item

    cdef bint first_runs_code(self) noexcept:
        """Whether code of users may run when the first region dies.

        That is the callback of a weak reference to it, or a method of the users' class of regions (`MapRegionCls`).
        """
        cdef bint found
        smmap_lock(&self.counts.mutex)
        found = self.count > 0 and (
            smmap_has_weakrefs(self.ends.newer.item) or (<Region>self.ends.newer.item).seen is not None
        )
        smmap_unlock(&self.counts.mutex)
        return found

    def oldest(self):
        """The least recently used item. `StopIteration` if there is none."""
        cdef PyObject* item = self.first_out()
        if item is NULL:
            raise StopIteration
        return smmap_held(item)

    def pop_oldest(self):
        """The same, removed from the order. `KeyError` if there is none."""
        cdef PyObject* item
        if not self.pop(&item):
            raise KeyError("dictionary is empty")  # as a dict does
        return smmap_held(item)

    def drain(self):
        """Take out all items, and return them, least recently used first."""
        cdef PyObject* item
        cdef list items = []
        while self.pop(&item):
            items.append(smmap_held(item))
        return items


cdef struct Rent:
    unsigned long long window
    long long paid  # with 1 added; 0: the slot is free
    long long end
    int apart


cdef struct Generation:
    Rent* rents
    size_t mask
    size_t count


cdef Rent* _rent(Generation* generation, unsigned long long window) noexcept:
    """The slot that has this window, or the free one where it belongs; NULL if there is none."""
    cdef size_t place
    if generation.rents is NULL:
        return NULL
    place = _hash(window ^ window >> 32, 0) & generation.mask  # its highest bits number the file
    while generation.rents[place].paid and generation.rents[place].window != window:
        place = (place + 1) & generation.mask
    return &generation.rents[place]


@cython.final
cdef class Rents:
    """The rents that were recently paid for cold windows: the arithmetic of _rents.py, in tables of numbers."""

    cdef Generation young
    cdef Generation old
    cdef smmap_mutex mutex

    def __dealloc__(self):
        free(self.young.rents)
        free(self.old.rents)

    def due(self, window, long long size, long long price, long long patience, long long start=0):
        """Pay for reading `size` bytes of a window; True if its price is reached, so that it should be bought now."""
        return self.pay(window & 0xFFFFFFFFFFFFFFFF, size, price, patience, start)

    def scattered(self, window):
        """Whether the recent reads of a window were scattered."""
        cdef unsigned long long wanted = window & 0xFFFFFFFFFFFFFFFF
        cdef Rent* slot
        cdef bint apart
        smmap_lock(&self.mutex)
        slot = _rent(&self.young, wanted)
        if slot is NULL or not slot.paid:
            slot = _rent(&self.old, wanted)
        apart = slot is not NULL and slot.paid > 0 and slot.apart > 0
        smmap_unlock(&self.mutex)
        return apart

    cdef bint pay(
        self, unsigned long long window, long long size, long long price, long long patience, long long start
    ) noexcept:
        """As `due`."""
        cdef bint bought
        smmap_lock(&self.mutex)
        bought = self.pay_alone(window, size, price, patience, start)
        smmap_unlock(&self.mutex)
        return bought

    cdef bint pay_alone(
        self, unsigned long long window, long long size, long long price, long long patience, long long start
    ) noexcept:
        """The same, under the lock."""
        cdef Rent* slot
        cdef Rent* before
        cdef long long paid = 0
        cdef bint bought
        cdef Generation full
        if not self.make_room():
            return False
        slot = _rent(&self.young, window)
        if slot.paid:
            paid = slot.paid - 1
        else:
            before = _rent(&self.old, window)
            slot.end = -1
            slot.apart = 0
            if before is not NULL and before.paid:
                slot[0] = before[0]
                paid = before.paid - 1
            slot.window = window
            self.young.count += 1
        paid += 1 + (size >> SHIFT)
        bought = paid >= price
        if slot.end >= 0:
            if 0 <= start - slot.end <= FOLLOWS:
                slot.apart = max(slot.apart - 1, -SURE)
            else:
                slot.apart = min(slot.apart + 1, SURE)
        slot.end = start + size
        slot.paid = 1 if bought else paid + 1
        if <long long>self.young.count > patience:
            full = self.young
            self.young = self.old
            self.old = full
            if self.young.rents is not NULL:
                memset(self.young.rents, 0, (self.young.mask + 1) * sizeof(Rent))
            self.young.count = 0
        return bought

    cdef bint make_room(self) noexcept:
        """Make room for one more; False if memory is short: rents are only a guess."""
        cdef Generation bigger
        cdef size_t place
        cdef Rent each
        if self.young.rents is not NULL and 2 * (self.young.count + 1) <= self.young.mask + 1:
            return True
        bigger.count = self.young.count
        bigger.mask = 2 * self.young.mask + 1 if self.young.rents is not NULL else 15
        bigger.rents = <Rent*>calloc(bigger.mask + 1, sizeof(Rent))
        if bigger.rents is NULL:
            return False
        if self.young.rents is not NULL:
            for place in range(self.young.mask + 1):
                each = self.young.rents[place]
                if each.paid:
                    _rent(&bigger, each.window)[0] = each
            free(self.young.rents)
        self.young = bigger
        return True
