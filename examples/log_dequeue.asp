// Logs the length of every socket buffer queue from which the kernel takes a buffer.
aspect log_dequeue {
    pointcut call("struct sk_buff *skb_dequeue(struct sk_buff_head *list)");
    before(struct sk_buff_head *list) { log("queue length %u", list->qlen); }
}
