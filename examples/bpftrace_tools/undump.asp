// bpftrace's undump.bt: what is received over UNIX stream sockets.
//
// Differs: at most 256 bytes of each packet are shown.
aspect undump {
    before(struct sk_buff *skb): execution(unix_stream_read_actor(struct sk_buff *skb, ..)) {
        log("%-16s %-8d %-8d %s", comm, pid, skb->len, buf(skb->data, skb->len));
    }
}
