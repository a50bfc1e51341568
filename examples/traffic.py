"""A little network traffic over sockets of this machine: UDP, TCP and Unix-domain, some of it left unread.

The kernel purges what is unread when a socket is closed, so a known number of buffers is taken from a queue of a
known length: 5, 4, 3, 2, 1, 0.
"""

import socket
import threading


def unread_messages(count: int) -> None:
    """Send messages that nobody reads, then close: the kernel empties the queue."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for number in range(count):
        sender.send(b"message %d" % number)
    receiver.close()
    sender.close()


def udp(count: int) -> None:
    """Send datagrams over the loopback device and read them."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(count):
        sender.sendto(b"datagram", receiver.getsockname())
        receiver.recv(100)


def tcp(size: int) -> None:
    """Send bytes through one TCP connection over the loopback device."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        while connection.recv(65536):
            pass

    server = threading.Thread(target=serve)
    server.start()
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(bytes(size))
    server.join()


if __name__ == "__main__":
    unread_messages(5)
    udp(20)
    tcp(1_000_000)
