// How long block devices take for each request, by device and direction.
//
//     klasy weave block_latency.asp; sleep 10; klasy stat block_latency
//
// From the moment a request is given to the device's driver to the moment the device has done all of it. Reads and writes of data
// alone: flushes, discards and the writing of zeroes by command (which /sys/block/*/stat takes for writes) carry none. What failed
// is counted, and is in neither bytes nor times. A device mapper's or md's device has no requests; those of the disks below it are seen.
//
//     block_latency.read_us, hist by str(rq->q->disk->disk_name)
//       sda
//         [64, 128)      |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|    412
aspect block_latency {
    u64 began[struct request *];
    hist read_us[str(rq->q->disk->disk_name)];
    hist write_us[str(rq->q->disk->disk_name)];
    sum read_bytes[str(rq->q->disk->disk_name)];
    sum write_bytes[str(rq->q->disk->disk_name)];
    count failed[str(rq->q->disk->disk_name)];

    before(struct request *rq): event(block:block_rq_issue) { began[rq] = now; }

    // A device may do a request in parts: `nr_bytes` of what is still to be done.
    before(struct request *rq, blk_status_t error, unsigned int nr_bytes): event(block:block_rq_complete) {
        if (began[rq]) {
            u64 us = (now - began[rq]) / 1000;
            u32 operation = rq->cmd_flags & 255;
            bool done = nr_bytes >= rq->__data_len;
            if (error) {
                failed[str(rq->q->disk->disk_name)]++;
            } else if (operation == REQ_OP_READ) {
                if (done) read_us[str(rq->q->disk->disk_name)].add(us);
                read_bytes[str(rq->q->disk->disk_name)] += nr_bytes;
            } else if (operation == REQ_OP_WRITE) {
                if (done) write_us[str(rq->q->disk->disk_name)].add(us);
                write_bytes[str(rq->q->disk->disk_name)] += nr_bytes;
            }
            if (done) delete began[rq];
        }
    }
}
