// Raw requests that must get a 4xx. H is the Host header; \0 may stand inside (the length is counted).
#ifndef VIREO_TESTS_HTTP_BAD_REQUESTS_H
#define VIREO_TESTS_HTTP_BAD_REQUESTS_H

#include <stddef.h>

#define H "Host: localhost\r\n"
#define J "Content-Type: application/json\r\n"
#define GOOD "/v1/files"
// Would be answered 200 with the body {}: a 4xx comes from the framing alone.
#define POST_ "DELETE /v1/vireo/session HTTP/1.1\r\n" H J
#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X512 X64 X64 X64 X64 X64 X64 X64 X64
#define X4096 X512 X512 X512 X512 X512 X512 X512 X512
#define LINES10 "a: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\n"

struct bad_request {
    const char *why, *bytes;
    size_t length;
    int status; // 0: any 4xx; CLOSED: a clean end without an answer, or a 4xx
};
#define CLOSED (-1)
#define R(why, status, bytes) {why, bytes, sizeof(bytes) - 1, status}

static const struct bad_request bad_requests[] = {
    // framing
    R("two lengths that differ", 400, POST_ "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}"
      "GET /healthz HTTP/1.1\r\n" H "\r\n"),
    R("two lengths that agree", 400, POST_ "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    R("length and chunked", 400, POST_ "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    R("chunked and length", 400, POST_ "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    R("unknown transfer encoding", 400, POST_ "Transfer-Encoding: gzip\r\n\r\n{}"),
    R("chunked twice", 400, POST_ "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    R("chunked in two lines", 400, POST_ "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    R("chunked after identity", 400, POST_ "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    R("chunked in quotes", 400, POST_ "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    R("chunked with a parameter", 400, POST_ "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    R("chunked in HTTP/1.0", 400, "DELETE /v1/vireo/session HTTP/1.0\r\n" H J "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    R("a signed length", 400, POST_ "Content-Length: +2\r\n\r\n{}"),
    R("a negative length", 400, POST_ "Content-Length: -1\r\n\r\n{}"),
    R("a hexadecimal length", 400, POST_ "Content-Length: 0x2\r\n\r\n{}"),
    R("a length with a blank inside", 400, POST_ "Content-Length: 2 2\r\n\r\n{}"),
    R("a list of lengths", 400, POST_ "Content-Length: 2, 2\r\n\r\n{}"),
    R("an empty length", 400, POST_ "Content-Length: \r\n\r\n{}"),
    R("a length beyond 64 bits", 0, POST_ "Content-Length: 99999999999999999999999\r\n\r\n{}"),
    R("a length over the limit", 413, POST_ "Content-Length: 99999999\r\n\r\n{}"),
    R("a blank before the colon of the length", 400, POST_ "Content-Length : 2\r\n\r\n{}"),
    R("a chunk size that is no number", 0, POST_ "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    R("a chunk size beyond 64 bits", 0, POST_ "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    R("a chunk longer than it says", 0, POST_ "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n"),
    R("two hosts", 400, "GET " GOOD " HTTP/1.1\r\n" H H "\r\n"),
    R("no host", 400, "GET " GOOD " HTTP/1.1\r\n\r\n"),
    R("two content types", 400, "DELETE /v1/vireo/session HTTP/1.1\r\n" H J "Content-Type: text/plain\r\n"
      "Content-Length: 2\r\n\r\n{}"),
    R("bare line feeds", 400, "GET " GOOD " HTTP/1.1\nHost: localhost\n\n"),
    R("bare line feeds after the first line", 400, "GET " GOOD " HTTP/1.1\r\nHost: localhost\nA: b\nC: d\n\n"),
    R("NUL in the path", 400, "GET /v1/fi\0les HTTP/1.1\r\n" H "\r\n"),
    R("NUL behind the path", 400, "GET " GOOD "\0 HTTP/1.1\r\n" H "\r\n"),
    R("a control character in a header", 400, "GET " GOOD " HTTP/1.1\r\n" H "A: \x01\r\n\r\n"),
    R("a blank in a header's name", 400, "GET " GOOD " HTTP/1.1\r\n" H "A b: c\r\n\r\n"),
    R("a header without a colon", 0, "GET " GOOD " HTTP/1.1\r\n" H "nonsense\r\n\r\n"),
    R("HTTP/3", 0, "GET " GOOD " HTTP/1.9\r\n" H "\r\n"),
    R("a version that is none", 0, "GET " GOOD " HTTQ/1.1\r\n" H "\r\n"),
    R("more than 100 headers", 431, "GET " GOOD " HTTP/1.1\r\n" H LINES10 LINES10 LINES10 LINES10 LINES10 LINES10
      LINES10 LINES10 LINES10 LINES10 "\r\n"),
    R("9 kB of headers", 431, "GET " GOOD " HTTP/1.1\r\n" H "A: " X4096 X4096 X512 "\r\n\r\n"),
    R("a header larger than the connection's memory", 431, "GET " GOOD " HTTP/1.1\r\n" H "A: "
      X4096 X4096 X4096 X4096 X4096 X4096 X4096 X4096 X4096 "\r\n\r\n"),
    R("a URL of more than 4 kB", 414, "GET " GOOD "?" X4096 X64 " HTTP/1.1\r\n" H "\r\n"),
    R("an unknown expectation", 400, POST_ "Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}"),
    R("HTTP/2's preface", 400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    R("HTTP/0.9", 400, "GET " GOOD "\r\n\r\n"),
    R("a TLS greeting", CLOSED, "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"),
    R("a line of nothing but blanks", CLOSED, "   \r\n" H "\r\n"),
    R("no method", CLOSED, " " GOOD " HTTP/1.1\r\n" H "\r\n"),
    R("four words", 400, "GET " GOOD " " GOOD " HTTP/1.1\r\n" H "\r\n"),
    R("a version in small letters", 400, "GET " GOOD " http/1.1\r\n" H "\r\n"),
    R("a header that begins with a colon", 400, "GET " GOOD " HTTP/1.1\r\n" H ": x\r\n\r\n"),
    R("a length behind a line that begins with a colon", 400, POST_ ": x\r\nContent-Length: 40\r\n\r\n"
      "GET /healthz HTTP/1.1\r\n" H "\r\n"),
    R("a trailer that begins with a colon, then a request", 415, "DELETE /v1/vireo/session HTTP/1.1\r\n" H
      "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n: x\r\nGET /healthz HTTP/1.1\r\n" H "\r\n\r\n"),
    R("a folded header", 400, "GET " GOOD " HTTP/1.1\r\n" H "A: b\r\n c\r\n\r\n"),
    R("a folded last header", 400, "GET " GOOD " HTTP/1.1\r\nA: b\r\n" H " c\r\n\r\n"),
    R("a folded first header", 400, "GET " GOOD " HTTP/1.1\r\n A: b\r\n" H "\r\n"),
    R("one bare line feed beside optional blanks", 400, "GET " GOOD " HTTP/1.1\r\n" H "A:    b\nC: d\r\n\r\n"),
    R("a bare line feed for the empty line", 400, "GET " GOOD " HTTP/1.1\r\n" H "\n"),
    R("a URL larger than the connection's memory", 414, "GET " GOOD "?" X4096 X4096 X4096 X4096 X4096 X4096 X4096 X4096 X4096
      " HTTP/1.1\r\n" H "\r\n"),
    R("a good request, then a bad one on the same connection", 0, "GET /v1/nothing HTTP/1.1\r\n" H "\r\n"
      "DELETE /v1/vireo/session HTTP/1.1\r\n" H J "Content-Length: x\r\n\r\n"),
    R("a chunk without its line break", 400, POST_ "Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n"),
    R("a negative chunk", 400, POST_ "Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n"),
    // target
    R("no slash", 400, "GET files HTTP/1.1\r\n" H "\r\n"),
    R("a dot segment", 400, "GET /v1/../v1/files HTTP/1.1\r\n" H "\r\n"),
    R("an escaped dot segment", 400, "GET /v1/files/%2e%2E HTTP/1.1\r\n" H "\r\n"),
    R("a single dot", 400, "GET /v1/./files HTTP/1.1\r\n" H "\r\n"),
    R("an escaped NUL", 400, "GET /v1/files/a%00b HTTP/1.1\r\n" H "\r\n"),
    R("an escaped line break", 400, "GET /v1/files/a%0d%0aSet-Cookie:x HTTP/1.1\r\n" H "\r\n"),
    R("bytes that are no UTF-8", 400, "GET /v1/files/%c0%af HTTP/1.1\r\n" H "\r\n"),
    R("a surrogate", 400, "GET /v1/files/%ed%a0%80 HTTP/1.1\r\n" H "\r\n"),
    R("a bad escape", 400, "GET /v1/files/%zz HTTP/1.1\r\n" H "\r\n"),
    R("a cut escape", 400, "GET /v1/files/%4 HTTP/1.1\r\n" H "\r\n"),
    R("a bad escape in the query", 400, "GET /v1/files?limit=%x HTTP/1.1\r\n" H "\r\n"),
    R("NUL in the query", 400, "GET /v1/files?after=%00 HTTP/1.1\r\n" H "\r\n"),
    R("an unknown path", 404, "GET /v1/nothing HTTP/1.1\r\n" H "\r\n"),
    R("a path too deep", 404, "GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14 HTTP/1.1\r\n" H "\r\n"),
    R("an empty segment", 404, "GET //v1/files HTTP/1.1\r\n" H "\r\n"),
    R("a trailing slash", 404, "GET /v1/files/ HTTP/1.1\r\n" H "\r\n"),
    R("a method that is not for the path", 405, "PUT /v1/files HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n"),
    R("a method that is none", 405, "BREW /v1/files HTTP/1.1\r\n" H "\r\n"),
    R("TRACE", 405, "TRACE /v1/files HTTP/1.1\r\n" H "\r\n"),
    // who asks, and from where
    R("a foreign host", 403, "GET " GOOD " HTTP/1.1\r\nHost: rebound.example\r\n\r\n"),
    R("a host that only begins well", 403, "GET " GOOD " HTTP/1.1\r\nHost: localhost.rebound.example\r\n\r\n"),
    R("a malformed host", 400, "GET " GOOD " HTTP/1.1\r\nHost: local host\r\n\r\n"),
    R("an empty host", 400, "GET " GOOD " HTTP/1.1\r\nHost: \r\n\r\n"),
    R("a foreign origin", 403, POST_ "Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}"),
    R("the null origin", 403, POST_ "Origin: null\r\nContent-Length: 2\r\n\r\n{}"),
    // parameters
    R("a limit of zero", 400, "GET /v1/files?limit=0 HTTP/1.1\r\n" H "\r\n"),
    R("a limit too high", 400, "GET /v1/files?limit=10001 HTTP/1.1\r\n" H "\r\n"),
    R("a limit that is no number", 400, "GET /v1/files?limit=ten HTTP/1.1\r\n" H "\r\n"),
    R("a limit beyond 64 bits", 400, "GET /v1/files?limit=99999999999999999999 HTTP/1.1\r\n" H "\r\n"),
    R("an unknown after", 400, "GET /v1/files?after=file-nope HTTP/1.1\r\n" H "\r\n"),
    R("an unknown order", 400, "GET /v1/files?order=sideways HTTP/1.1\r\n" H "\r\n"),
    R("an unknown id", 404, "GET /v1/files/file-nope HTTP/1.1\r\n" H "\r\n"),
    R("a model that is not there", 404, "DELETE /v1/models/nope HTTP/1.1\r\n" H "\r\n"),
};

#endif
