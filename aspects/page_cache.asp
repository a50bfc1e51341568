// Page-cache misses: what reads were given from the page cache, and what had to be brought into it, by process and file.
//
//     klasy weave page_cache.asp; sleep 10; klasy stat page_cache
//
// All are bytes. `added` is what enters the cache, in whole pages: what was read (ahead, too) and what was newly written. `wanted`
// is what reads through the cache were given. A process for which `added` comes near `wanted` lives from its disk; one for which
// it is 0 is served from memory.
//
//     page_cache.added, sum by comm and str(mapping->host->i_sb->s_id)
//       tar   vda1    83886080
aspect page_cache {
    sum added[comm, str(mapping->host->i_sb->s_id)];
    sum added_to[mapping->host->i_ino];
    sum wanted[comm];

    after(struct address_space *mapping, struct folio *folio) returning (int result):
            execution(int filemap_add_folio(struct address_space *mapping, struct folio *folio, ..)) {
        if (result == 0) {
            u64 bytes = 4096;
            if ((folio->flags & 1 << PG_head) != 0) bytes *= folio->_folio_nr_pages;
            added[comm, str(mapping->host->i_sb->s_id)] += bytes;
            added_to[mapping->host->i_ino] += bytes;
        }
    }
    after() returning (ssize_t n): execution(ssize_t filemap_read(..)) { if (n > 0) wanted[comm] += n; }
}
