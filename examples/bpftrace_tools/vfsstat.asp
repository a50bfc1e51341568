// bpftrace's vfsstat.bt: reads, writes, opens, creations and fsyncs of files.
//
// Differs: that tool prints and clears each second. klasy counts the hits of each join point by itself, and `klasy joinpoints
// vfsstat` shows how many there have been at any time. (To compare them take the same moments: klasy makes files while it
// weaves, which a tool that runs already counts.)
aspect vfsstat {
    before(): execution(vfs_read*) || execution(vfs_write*) || execution(vfs_fsync) || execution(vfs_open) || execution(vfs_create) { }
}
