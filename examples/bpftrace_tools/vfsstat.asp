// bpftrace's vfsstat.bt: reads, writes, opens, creations and fsyncs of files.
//
// Differs: that tool prints and clears each second. klasy counts the hits of each join point by itself, and `klasy joinpoints
// vfsstat` shows how many there have been at any time.
aspect vfsstat {
    before(): execution(vfs_read*) || execution(vfs_write*) || execution(vfs_fsync) || execution(vfs_open) || execution(vfs_create) { }
}
