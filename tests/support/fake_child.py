"""A stand-in for a gateway or worker: answers HTTP on an inherited socket, and misbehaves on demand.

usage: fake_child.py LISTEN_FD [exit=STATUS] [ignore-term] [flood] [unready]
"""

import os
import signal
import socket
import sys
import threading


def obey(parent: socket.socket) -> None:
    while orders := parent.recv(4096):
        print(f"told {orders.decode().splitlines()}", flush=True)
    os._exit(0)


def end(number: int, _: object) -> None:
    print("drained", flush=True)
    os._exit(0)


def main(fd: int, manners: list[str]) -> None:
    for manner in manners:
        if manner.startswith("exit="):
            print("the model is no model", file=sys.stderr, flush=True)
            os._exit(int(manner.removeprefix("exit=")))
    if "ignore-term" in manners:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, end)
    parent = socket.socket(fileno=int(os.environ["INFERENCE_PARENT_FD"]))
    threading.Thread(target=obey, args=[parent], daemon=True).start()
    print(f"serving in session {os.getsid(0)}", flush=True)
    if "flood" in manners:
        for _ in range(50_000):
            print("x" * 100)
    status = "503 Service Unavailable" if "unready" in manners else "200 OK"
    body = str(os.getpid())
    listener = socket.socket(fileno=fd)
    while True:
        client, _ = listener.accept()
        with client:
            client.recv(65_536)
            client.sendall(f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
