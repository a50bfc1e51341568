// Page-cache misses: what reads were given from the page cache, and what had to be brought into it, by process and file.
//
//     klasy weave page_cache.asp; sleep 10; klasy stat page_cache
//
// `added` counts what enters the cache: pages that were read (ahead, too) and pages that were newly written. A file system that
// keeps large folios enters several pages as one. `wanted` counts the pages that reads through the cache were given. A process
// for which `added` comes near `wanted` lives from its disk; one for which it is 0 is served from memory.
//
//     page_cache.added, count by comm and str(inode->i_sb->s_id)
//       tar   vda1    20480
aspect page_cache {
    count added[comm, str(mapping->host->i_sb->s_id)];
    count added_to[mapping->host->i_ino];
    sum wanted[comm];

    after(struct address_space *mapping) returning (int result):
            execution(int filemap_add_folio(struct address_space *mapping, ..)) {
        if (result == 0) {
            added[comm, str(mapping->host->i_sb->s_id)]++;
            added_to[mapping->host->i_ino]++;
        }
    }
    after() returning (ssize_t n): execution(ssize_t filemap_read(..)) { if (n > 0) wanted[comm] += (n + 4095) / 4096; }
}
