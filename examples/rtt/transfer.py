"""Sends 4 MB to itself over TCP on the loopback interface, and prints the ports."""

import socket
import threading

SIZE = 4 << 20


def drain(connection: socket.socket) -> None:
    """Read to the end."""
    while connection.recv(65536):
        pass


with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        print(f"from port {sender.getsockname()[1]} to port {server.getsockname()[1]}")
        reader = threading.Thread(target=drain, args=(receiver,))
        reader.start()
        sender.sendall(bytes(SIZE))
    reader.join()
    receiver.close()
