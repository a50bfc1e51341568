// Packets that the kernel drops: why, and which code threw them away.
//
//     klasy weave -f drops.asp
//
// The reason is the kernel's own (enum skb_drop_reason); a driver or protocol that gives none is shown as NOT_SPECIFIED. `klasy
// stat drops` has the table by reason and place, the worst first.
//
//     SKB_DROP_REASON_NO_SOCKET at __udp4_lib_rcv+0x9a2: 18 bytes, lo
//
//     drops.dropped, count by enum skb_drop_reason and void *
//       SKB_DROP_REASON_NO_SOCKET      __udp4_lib_rcv+0x9a2    120
//
// A packet that waited in a socket has no device any more: there the kernel keeps other things at the place of skb->dev.
aspect drops {
    count dropped[enum skb_drop_reason, void *];

    before(struct sk_buff *skb, void *location, enum skb_drop_reason reason): event(skb:kfree_skb) {
        dropped[reason, location]++;
        struct net_device *dev = skb->dev;
        if (dev != 0 && dev->_tx->dev == dev) log("%s at %pS: %u bytes, %s", reason, location, skb->len, str(dev->name));
        else log("%s at %pS: %u bytes", reason, location, skb->len);
    }
}
