// How long block devices take for each request, by device and direction.
//
//     klasy weave block_latency.asp; sleep 10; klasy stat block_latency
//
// From the moment a request is given to the device's driver to the moment the device has done it.
//
//     block_latency.took_us, hist by u32, u32 and unsigned int
//       8  0  0
//         [64, 128)      |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|    412
aspect block_latency {
    u64 began[struct request *];
    hist read_us[str(rq->q->disk->disk_name)];
    hist write_us[str(rq->q->disk->disk_name)];
    sum read_bytes[str(rq->q->disk->disk_name)];
    sum write_bytes[str(rq->q->disk->disk_name)];

    before(struct request *rq): event(block:block_rq_issue) { began[rq] = now; }
    before(struct request *rq, unsigned int nr_bytes): event(block:block_rq_complete) {
        if (began[rq]) {
            u64 us = (now - began[rq]) / 1000;
            u32 operation = rq->cmd_flags & 255;
            if (operation == REQ_OP_READ) {
                read_us[str(rq->q->disk->disk_name)].add(us);
                read_bytes[str(rq->q->disk->disk_name)] += nr_bytes;
            } else if (operation == REQ_OP_WRITE) {
                write_us[str(rq->q->disk->disk_name)].add(us);
                write_bytes[str(rq->q->disk->disk_name)] += nr_bytes;
            }
            delete began[rq];
        }
    }
}
