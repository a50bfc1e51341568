// What each process reads from and writes to which files: bytes, calls, and how long the calls take.
//
//     klasy weave file_io.asp; sleep 10; klasy stat file_io
//
// Sees read(2), write(2) and their kin that transfer one buffer, for everything that is a file: also pipes, sockets and
// terminals, whose names are empty or made up by the kernel. readv(2), sendfile(2) and mapped memory go other ways.
//
//     file_io.read_bytes, sum by comm and str(file->f_path.dentry->d_name.name)
//       dd    zero      10485760
//       cat   passwd        1183
//     file_io.write_ns, hist by comm
//       dd
//         [4 Ki, 8 Ki)     |@@@@@@@@@@@@@@@@@@@@            |      41
//         [8 Ki, 16 Ki)    |@@@@@@@@@                       |      19
aspect file_io {
    pointcut reading(struct file *file): execution(ssize_t vfs_read(struct file *file, ..));
    pointcut writing(struct file *file): execution(ssize_t vfs_write(struct file *file, ..));

    sum read_bytes[comm, str(file->f_path.dentry->d_name.name)];
    sum write_bytes[comm, str(file->f_path.dentry->d_name.name)];
    count failed[comm, str(file->f_path.dentry->d_name.name)];
    u64 began[tid];
    hist read_ns[comm];
    hist write_ns[comm];

    before(struct file *file): reading(file) || writing(file) { began[tid] = now; }

    after(struct file *file) returning (ssize_t result): reading(file) {
        if (began[tid]) { read_ns[comm].add(now - began[tid]); delete began[tid]; }
        if (result >= 0) read_bytes[comm, str(file->f_path.dentry->d_name.name)] += result;
        else failed[comm, str(file->f_path.dentry->d_name.name)]++;
    }

    after(struct file *file) returning (ssize_t result): writing(file) {
        if (began[tid]) { write_ns[comm].add(now - began[tid]); delete began[tid]; }
        if (result >= 0) write_bytes[comm, str(file->f_path.dentry->d_name.name)] += result;
        else failed[comm, str(file->f_path.dentry->d_name.name)]++;
    }
}
