"""A stand-in for a gateway or worker: answers HTTP on an inherited socket, and misbehaves on demand.

usage: fake_child.py LISTEN_FD [exit=STATUS] [ignore-term] [flood] [unready] [overlaps] [hangs] [FILE:MANNER]

overlaps: it says when it is ready, and after TERM serves on until it is told not to. FILE:MANNER applies while FILE
exists. hangs: it never serves.
"""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # as a whole: two threads do so


class FakeChild:
    def __init__(self, fd: int, manners: list[str]) -> None:
        self.listener = socket.socket(fileno=fd)
        self.parent = socket.socket(fileno=int(os.environ["INFERENCE_PARENT_FD"]))
        self.manners = set()
        for manner in manners:
            file, _, conditional = manner.rpartition(":")
            if not file or Path(file).exists():
                self.manners.add(conditional)

    def main(self) -> None:
        for manner in self.manners:
            if manner.startswith("exit="):
                print("the model is no model", file=sys.stderr, flush=True)
                os._exit(int(manner.removeprefix("exit=")))
        if "ignore-term" in self.manners:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, self.on_term)
        threading.Thread(target=self.obey, daemon=True).start()
        if "hangs" in self.manners:
            while True:
                time.sleep(1)
        say(f"serving in session {os.getsid(0)}")
        if "flood" in self.manners:
            for _ in range(50_000):
                print("x" * 100)
        if "overlaps" in self.manners:
            self.parent.send(b"ready\n")
        self.serve()

    def serve(self) -> None:
        status = "503 Service Unavailable" if "unready" in self.manners else "200 OK"
        body = str(os.getpid())
        while True:
            client, _ = self.listener.accept()
            with client:
                client.recv(65_536)
                client.sendall(f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def on_term(self, number: int, _: object) -> None:
        if "overlaps" in self.manners:
            self.parent.send(b"draining\n")
        else:
            self.end()

    def obey(self) -> None:
        while orders := self.parent.recv(4096):
            for name, *values in map(str.split, orders.decode().splitlines()):
                say(" ".join(["told", name, *values]))
                if name == "drain" and values[0] == "0" and "overlaps" in self.manners:
                    self.end()
        os._exit(0)

    def end(self) -> None:
        say("drained")
        os._exit(0)


if __name__ == "__main__":
    FakeChild(int(sys.argv[1]), sys.argv[2:]).main()
