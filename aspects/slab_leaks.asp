// Memory of the kernel's own allocator that was taken since the weave and not given back, by the code that took it.
//
//     klasy weave slab_leaks.asp --keys 200000; sleep 60; klasy stat slab_leaks
//
// What grows without end is a leak. What was taken before the weave is not known, and giving it back counts for nothing. This runs at
// every kmalloc: weave it for minutes, not for days.
//
//     slab_leaks.live_bytes, s64 by void *
//       nf_hook_entries_grow+0x4b      583680
aspect slab_leaks {
    u64 size[void *];
    void *taker[void *];
    s64 live_bytes[void *];
    s64 live_objects[void *];

    before(unsigned long call_site, const void *ptr, size_t bytes_alloc): event(kmem:kmalloc) {
        if (ptr) {
            void *place = (void *)call_site;
            size[ptr] = bytes_alloc;
            taker[ptr] = place;
            live_bytes[place] += bytes_alloc;
            live_objects[place] += 1;
        }
    }
    void given_back(const void *ptr) {
        if (size[ptr]) {
            void *place = taker[ptr];
            live_bytes[place] -= size[ptr];
            live_objects[place] -= 1;
            delete size[ptr];
            delete taker[ptr];
        }
    }
    before(const void *ptr): event(kmem:kfree) { given_back(ptr); }

    // What kfree_rcu() gives back comes a page of pointers at a time and has no event. (A loop ends after 256 turns.)
    before(size_t n, void **objects): execution(kmem_cache_free_bulk(*, size_t n, void **objects)) {
        for (u32 i = 0; i < 256 && i < n; i++) given_back(objects[i]);
        for (u32 i = 256; i < 512 && i < n; i++) given_back(objects[i]);
    }
}
