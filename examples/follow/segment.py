"""Sends itself a segment that waits, another that the kernel appends to it, and reads both in portions."""

import socket
import time

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", 7777))
listener.listen()
sender = socket.create_connection(("127.0.0.1", 7777))
sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
receiver, _ = listener.accept()
for size in (100, 50):
    sender.sendall(bytes(size))
    time.sleep(0.5)
for size in (60, 60, 30):
    assert len(receiver.recv(60)) == size
