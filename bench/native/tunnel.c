/* The native comparator: TLS 1.3, SSTP framing and a TUN device with segmentation offload in one epoll loop.
 *
 *     tunnel server ADDRESS PORT TUN SESSIONS CHAIN KEY
 *     tunnel client ADDRESS PORT TUN SESSIONS [CONTROL]
 *
 * It shows what a machine can do at best: there is no HTTP, no SSTP call and no PPP between its two ends, only frames.
 * It says "ready" when it listens, then "up" when all sessions are there; devices are called TUN0, TUN1, ...
 *
 * With CONTROL, the descriptor of a SEQPACKET socket, the client talks to a real SSTP server: it hands everything that
 * is not an IPv4 packet to the other end of that socket and sends what comes from there. A message is the session's
 * number (2 bytes, native order), a kind and the data. Kinds to the other end: C certificate (DER), H head of the HTTP
 * answer, F frame, E end of the session. Kinds from there: S data to send.
 */
#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PLAIN = 256 * 1024,    /* plaintext taken in one event */
    OUTBOUND = 256 * 1024, /* frames made in one event, and sent at once */
    READS = 64,            /* super-packets in one event */
    RECORD = 16384,        /* RFC 8446 5.1 */
    READ_AHEAD = 32768,    /* OpenSSL's receive buffer */
    HEAD = 16384,          /* HTTP answer */
    MAX_SESSIONS = 4096,
    PATIENCE_MS = 10000,   /* for a server that is about to listen */
};

struct session {
    int socket, number;
    SSL *ssl;
    struct frames frames;
    uint8_t partial[MAX_FRAME];
    size_t kept;       /* bytes of partial */
    size_t sent;       /* of what waits in the outgoing BIO */
    bool blocked;      /* the socket takes no more */
    bool unfinished;   /* plaintext is left that epoll does not know of */
    bool head_done;    /* the HTTP answer is over */
};

static struct session *sessions;
static int session_count, unfinished_count, epoll, control = -1;
static uint8_t plain[PLAIN + MAX_FRAME], outbound[OUTBOUND];

static void fail(const char *what)
{
    fprintf(stderr, "tunnel: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* ---- control channel ------------------------------------------------------------------------------------------- */

struct message {
    uint16_t session;
    uint8_t kind;
    uint8_t data[HEAD];
} __attribute__((packed));

static void tell(struct session *session, uint8_t kind, const uint8_t *data, size_t size)
{
    static struct message message;
    if (control < 0)
        return;
    message.session = (uint16_t)session->number;
    message.kind = kind;
    size = size < sizeof message.data ? size : sizeof message.data;
    memcpy(message.data, data, size);
    if (send(control, &message, offsetof(struct message, data) + size, MSG_NOSIGNAL) < 0)
        fail("control");
}

static void tell_frame(void *context, const uint8_t *frame, size_t size)
{
    tell(context, 'F', frame, size);
}

/* ---- one session ------------------------------------------------------------------------------------------------ */

static void watch(struct session *session)
{
    uint64_t key = (uint64_t)session->number << 1;
    struct epoll_event on_socket = {EPOLLIN | (session->blocked ? EPOLLOUT : 0u), {.u64 = key}};
    struct epoll_event on_tun = {session->blocked ? 0u : EPOLLIN, {.u64 = key | 1}};
    epoll_ctl(epoll, EPOLL_CTL_MOD, session->socket, &on_socket);
    epoll_ctl(epoll, EPOLL_CTL_MOD, session->frames.tun, &on_tun);
}

static void finish(struct session *session)
{
    if (session->socket < 0)
        return;
    tell(session, 'E', NULL, 0);
    close(session->socket);
    close(session->frames.tun);
    session->socket = -1;
    if (session->unfinished)
        unfinished_count--;
    session->unfinished = false;
    SSL_free(session->ssl);
    if (control < 0 && session_count == 1)
        exit(0);
}

/* Sends what waits in the outgoing BIO, with one call. */
static void flush(struct session *session)
{
    BIO *out = SSL_get_wbio(session->ssl);
    char *data;
    size_t size = (size_t)BIO_get_mem_data(out, &data);
    if (size > session->sent) {
        ssize_t got = send(session->socket, data + session->sent, size - session->sent, MSG_NOSIGNAL);
        if (got < 0 && errno != EAGAIN) {
            finish(session);
            return;
        }
        session->sent += got > 0 ? (size_t)got : 0;
    }
    bool blocked = session->sent < size;
    if (!blocked) {
        (void)BIO_reset(out);
        session->sent = 0;
    }
    if (blocked != session->blocked) {
        session->blocked = blocked;
        watch(session);
    }
}

static void encrypt(struct session *session, const uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size; at += RECORD)
        if (SSL_write(session->ssl, data + at, (int)(size - at < RECORD ? size - at : RECORD)) <= 0)
            fail("SSL_write");
    flush(session);
}

/* Takes the head of the HTTP answer off the front of the plaintext; returns its length, 0 while it is not whole. */
static size_t take_head(struct session *session, const uint8_t *data, size_t size)
{
    const uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t length = (size_t)(end - data) + 4;
    tell(session, 'H', data, length);
    session->head_done = true;
    return length;
}

static void receive(struct session *session)
{
    size_t size = session->kept, used = 0;
    bool dry = false;
    memcpy(plain, session->partial, size);
    ERR_clear_error();
    while (size + RECORD <= PLAIN) {
        int got = SSL_read(session->ssl, plain + size, (int)(PLAIN - size));
        if (got > 0) {
            size += (size_t)got;
            continue;
        }
        if (SSL_get_error(session->ssl, got) != SSL_ERROR_WANT_READ) {
            finish(session);
            return;
        }
        dry = true;
        break;
    }
    if (!session->head_done)
        used = take_head(session, plain, size);
    if (session->head_done) {
        size_t taken = frames_feed(&session->frames, plain + used, size - used, tell_frame, session);
        if (taken == SIZE_MAX) {
            finish(session);
            return;
        }
        used += taken;
    }
    session->kept = size - used;
    if (session->kept > sizeof session->partial) {
        finish(session);
        return;
    }
    memcpy(session->partial, plain + used, session->kept);
    if (session->unfinished == dry) {
        session->unfinished = !dry;
        unfinished_count += dry ? -1 : 1;
    }
}

static void transmit(struct session *session)
{
    bool empty;
    size_t size = frames_drain(&session->frames, outbound, sizeof outbound, READS, &empty);
    if (size)
        encrypt(session, outbound, size);
}

/* ---- connections ------------------------------------------------------------------------------------------------ */

static SSL_CTX *make_context(bool server, const char *chain, const char *key)
{
    SSL_CTX *context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
    if (server) {
        SSL_CTX_set_num_tickets(context, 0);
        if (SSL_CTX_use_certificate_chain_file(context, chain) != 1 ||
            SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
            fail("certificate");
    }
    return context;
}

static int dial(const struct sockaddr_in *address)
{
    for (int waited = 0; waited < PATIENCE_MS; waited += 50) {
        int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(made, (const struct sockaddr *)address, sizeof *address) == 0)
            return made;
        close(made);
        usleep(50000);
    }
    fail("connect");
    return -1;
}

static void begin(struct session *session, int socket, SSL_CTX *context, bool server, const char *tun)
{
    char name[16];
    int one = 1;
    snprintf(name, sizeof name, "%s%d", tun, session->number);
    session->socket = socket;
    session->frames.tun = frames_open_tun(name);
    if (session->frames.tun < 0)
        fail(name);
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    session->ssl = SSL_new(context);
    SSL_set_fd(session->ssl, socket);
    if ((server ? SSL_accept(session->ssl) : SSL_connect(session->ssl)) != 1)
        fail("handshake");
    SSL_set0_wbio(session->ssl, BIO_new(BIO_s_mem()));
    fcntl(socket, F_SETFL, O_NONBLOCK);
    session->head_done = control < 0;
    struct epoll_event event = {EPOLLIN, {.u64 = (uint64_t)session->number << 1}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
    event.data.u64 |= 1;
    epoll_ctl(epoll, EPOLL_CTL_ADD, session->frames.tun, &event);
    if (control >= 0) {
        uint8_t *der = NULL;
        X509 *certificate = SSL_get1_peer_certificate(session->ssl);
        int size = i2d_X509(certificate, &der);
        tell(session, 'C', der, size > 0 ? (size_t)size : 0);
        OPENSSL_free(der);
        X509_free(certificate);
    }
}

static void connect_all(bool server, const struct sockaddr_in *address, SSL_CTX *context, const char *tun)
{
    int listener = -1, one = 1;
    if (server) {
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, (const struct sockaddr *)address, sizeof *address) || listen(listener, MAX_SESSIONS))
            fail("listen");
        puts("ready");
    }
    for (int number = 0; number < session_count; number++) {
        sessions[number].number = number;
        int socket = server ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : dial(address);
        if (socket < 0)
            fail("accept");
        begin(&sessions[number], socket, context, server, tun);
    }
    if (server)
        close(listener);
    puts("up");
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

static void on_control(void)
{
    static struct message message;
    ssize_t got = recv(control, &message, sizeof message, 0);
    if (got <= 0)
        exit(0); /* the other end is gone: so are we */
    size_t size = (size_t)got - offsetof(struct message, data);
    if ((size_t)got < offsetof(struct message, data) || message.kind != 'S' || message.session >= session_count)
        fail("control message");
    if (sessions[message.session].socket >= 0)
        encrypt(&sessions[message.session], message.data, size);
}

static void serve(void)
{
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(epoll, events, 256, unfinished_count ? 0 : -1);
        for (int i = 0; i < session_count && unfinished_count; i++)
            if (sessions[i].unfinished)
                receive(&sessions[i]);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == UINT64_MAX) {
                on_control();
                continue;
            }
            struct session *session = &sessions[events[i].data.u64 >> 1];
            if (session->socket < 0)
                continue;
            if (events[i].data.u64 & 1) {
                if (!session->blocked)
                    transmit(session);
                continue;
            }
            if (events[i].events & EPOLLOUT)
                flush(session);
            if (session->socket >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(session);
        }
    }
}

int main(int argc, char **argv)
{
    bool server = argc == 8 && strcmp(argv[1], "server") == 0;
    if (!server && !((argc == 6 || argc == 7) && strcmp(argv[1], "client") == 0)) {
        fprintf(stderr, "usage: tunnel server ADDRESS PORT TUN SESSIONS CHAIN KEY\n"
                        "       tunnel client ADDRESS PORT TUN SESSIONS [CONTROL]\n");
        return 64;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
    session_count = atoi(argv[5]);
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1 || session_count < 1 || session_count > MAX_SESSIONS) {
        fprintf(stderr, "tunnel: an IPv4 address, and 1 to %d sessions\n", MAX_SESSIONS);
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    sessions = calloc((size_t)session_count, sizeof *sessions);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!server && argc == 7) {
        control = atoi(argv[6]);
        struct epoll_event event = {EPOLLIN, {.u64 = UINT64_MAX}};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, control, &event))
            fail("control");
    }
    connect_all(server, &address, make_context(server, server ? argv[6] : NULL, server ? argv[7] : NULL), argv[4]);
    serve();
}
