"""HTTP on the wire, as libmicrohttpd alone would not do it: python3 tests/http/wire.py build/vireo
Good requests in any pieces, with any legal layout, one behind the other on one connection, are answered 200; what
libmicrohttpd refuses by itself gets the API's error over TLS too. Standard library, and openssl for the certificate."""
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys

from vireo_server import Server

BAD = [
    (400, b"POST /v1/vireo/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n{}"),
    (413, b"POST /v1/vireo/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n{}"),
    (400, b"GET /healthz HTTP/1.1\r\n\r\n"),
    (400, b"GET /healthz HTTQ/1.1\r\nHost: localhost\r\n\r\n"),
    (400, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n"),
    (431, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 40000 + b"\r\n\r\n"),
    (414, b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (400, b"DELETE /v1/vireo/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
          b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    # larger than a body without an answer may get: cut in the middle, with the answer
    (404, b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n180000\r\n" + b"x" * 0x180000),
]


def read_answer(stream):
    status = int(stream.readline().split()[1])
    headers = {}
    while (line := stream.readline().rstrip(b"\r\n")):
        name, value = line.split(b": ", 1)
        headers[name.decode().lower()] = value.decode()
    return status, headers, stream.read(int(headers["content-length"]))


def good_request(draw):
    """A legal request of /healthz whose header is laid out at random, and how to cut it into pieces."""
    target = "/healthz" + draw.choice(["", "?a=b", "?" + "q" * draw.randrange(3000)])
    lines = [f"Host:{' ' * draw.randrange(4)}localhost"]
    for i in range(draw.randrange(30)):
        value = "".join(draw.choices("abc;,= \t\"'0", k=draw.randrange(draw.choice([5, 200])))).strip()
        name = draw.choice(["X-A", "Cookie", "Accept", "user-agent"])
        if name == "Cookie":
            value = "; ".join(f"k{j}={draw.randrange(10 ** 9)}" for j in range(draw.randrange(1, 40)))
        lines.append(f"{name}:{draw.choice(['', ' ', '  ', chr(9)])}{value}"
                     f"{draw.choice(['', '', ' '])}")
    draw.shuffle(lines)
    text = f"GET {target} HTTP/1.1\r\n" + "".join(line + "\r\n" for line in lines[:90]) + "\r\n"
    return text.encode() if len(text) < 8000 else b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def in_pieces(port, rounds):
    draw = random.Random(7)
    for round_ in range(rounds):
        requests = [good_request(draw) for _ in range(draw.randrange(1, 5))]
        data = b"".join(requests)
        cuts = sorted(draw.randrange(len(data)) for _ in range(draw.choice([0, 1, 5, 40])))
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = s.makefile("rb")
            for a, b in zip([0] + cuts, cuts + [len(data)]):
                s.sendall(data[a:b])
            for request in requests:
                status, _, body = read_answer(stream)
                assert status == 200, (round_, status, body, request)


def over_tls(port, certificate):
    context = ssl.create_default_context(cafile=certificate)
    for expected, data in [(200, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")] + BAD:
        for before in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # also as the second of its connection
            with socket.create_connection(("localhost", port)) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as s:
                    stream = s.makefile("rb")
                    if before:
                        s.sendall(before)
                        assert read_answer(stream)[0] == 200
                    try:
                        s.sendall(data)
                    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                        pass  # cut: the answer is there all the same
                    status, headers, body = read_answer(stream)
                    assert status == expected, (status, expected, data[:80], body)
                    assert headers["content-type"] == "application/json", headers
                    if status >= 400:
                        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}, body
                        assert headers["connection"] == "close" and stream.read() == b"", (data[:80], headers)


def main():
    program = sys.argv[1]
    server = Server(program).start()
    try:
        in_pieces(int(server.url.rsplit(":", 1)[1]), 150)
    finally:
        server.stop()
    server = Server(program)
    certificate, key = (os.path.join(server.folder, name) for name in ("cert.pem", "key.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
                   check=True, stderr=subprocess.DEVNULL)
    os.chmod(key, 0o600)
    server.arguments = ["--tls-cert", certificate, "--tls-key", key]
    server.start()
    try:
        assert re.match(r"https://", server.url), server.url
        over_tls(int(server.url.rsplit(":", 1)[1]), certificate)
    finally:
        server.stop()
    print("wire: ok")


if __name__ == "__main__":
    main()
