"""Stand for ssh(1): forward one port of this host, with -L or -R, and talk as ``ssh -v`` does.

FAKE_SSH in the environment makes it refuse (``refuse``), hang (``hang``), print for ever
(``babble``), end once it is open (``end``), or ignore SIGTERM (``stubborn``).
"""

import os
import signal
import socket
import sys
import threading
import time

MOOD = os.environ.get("FAKE_SSH", "")


def say(text):
    print(text, file=sys.stderr, flush=True)


def pump(source, sink):
    while part := source.recv(65536):
        sink.sendall(part)
    sink.shutdown(socket.SHUT_WR)


def carry(client, target):
    upstream = socket.create_connection(target)
    threading.Thread(target=pump, args=(client, upstream), daemon=True).start()
    threading.Thread(target=pump, args=(upstream, client), daemon=True).start()


def main(arguments):
    if log := os.environ.get("FAKE_SSH_LOG"):
        with open(log, "a") as file:
            file.write(" ".join(arguments) + "\n")
    say("OpenSSH_9.2p1, fake")
    say("debug1: Connecting")
    if MOOD == "refuse":
        say("Permission denied (publickey).")
        sys.exit(255)
    if MOOD == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while MOOD == "hang":
        time.sleep(60)
    while MOOD == "babble":
        sys.stderr.write("x" * 10_000)
    kind = "-L" if "-L" in arguments else "-R"
    _, port, host, target = arguments[arguments.index(kind) + 1].split(":")
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        number = listener.getsockname()[1]
        if kind == "-L":
            say(f"debug1: Local forwarding listening on 127.0.0.1 port {number}.")
        else:
            say(f"Allocated port {number} for remote forward to {host}:{target}")
        while MOOD != "end":
            say("debug1: " + "x" * 5000)
            client, _ = listener.accept()
            carry(client, (host, int(target)))


main(sys.argv[1:])
