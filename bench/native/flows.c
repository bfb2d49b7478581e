/* Traffic for the benchmark, and its count.
 *
 *     flows serve PORT                                         answers tcp and counts udp, until SIGTERM
 *     flows tcp up|down HOST PORT DEVICES FLOWS RATE CHUNK SECONDS
 *     flows udp HOST PORT DEVICE SIZE BURST GAP_US SECONDS SEGMENTS
 *
 * tcp: each flow carries RATE bytes a second (0: as many as it can) in writes of CHUNK bytes; flow N leaves through the
 * device DEVICES with N behind it. "-" for DEVICES or DEVICE leaves that to the routes. udp: BURST datagrams of SIZE bytes
 * each GAP_US microseconds; SEGMENTS datagrams are handed to the kernel at once (UDP_SEGMENT), 1 sends each by itself.
 *
 * Every end prints one line of JSON: what it sent, or what it got.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024, MAX_FLOWS = 4096, BATCH = 64, MAX_DATAGRAM = 2048, TICK_NS = 500000, LINE = 96 };

struct flow {
    int socket;
    bool sends, paced, begun; /* begun: its request was read */
    uint64_t bytes, due;      /* due: by now, when paced */
    uint64_t start, end;      /* ns */
    uint64_t rate, chunk;
};

static uint8_t block[BLOCK];
static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void fail(const char *what)
{
    fprintf(stderr, "flows: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void refuse(void)
{
    fprintf(stderr, "usage: flows serve PORT | tcp ... | udp ... (see flows.c)\n");
    exit(64);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct sockaddr_in address_of(const char *host, const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        fail(host);
    return address;
}

static void bind_device(int socket, const char *name)
{
    if (setsockopt(socket, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name) + 1))
        fail(name);
}

/* ---- TCP -------------------------------------------------------------------------------------------------------- */

/* Sends what is due in whole chunks; false when the flow is over. */
static bool send_due(struct flow *flow, uint64_t now)
{
    if (now >= flow->end)
        return false;
    if (now < flow->start) /* flows begin apart from each other */
        return true;
    uint64_t due = flow->paced ? (now - flow->start) / 1000 * flow->rate / 1000000 : UINT64_MAX;
    while (flow->bytes + flow->chunk <= due) {
        ssize_t got = send(flow->socket, block, flow->chunk, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (got < 0)
            return errno == EAGAIN;
        flow->bytes += (uint64_t)got;
    }
    return true;
}

static bool discard(struct flow *flow)
{
    for (int i = 0; i < 8; i++) {
        ssize_t got = recv(flow->socket, block, sizeof block, MSG_DONTWAIT);
        if (got < 0)
            return errno == EAGAIN;
        if (got == 0)
            return false;
        flow->bytes += (uint64_t)got;
    }
    return true;
}

static void watch(int epoll, struct flow *flow, int operation)
{
    struct epoll_event event = {EPOLLIN | (flow->sends && !flow->paced ? EPOLLOUT : 0u), {.ptr = flow}};
    if (epoll_ctl(epoll, operation, flow->socket, &event))
        fail("epoll");
}

static uint64_t unacknowledged(int socket)
{
    int queued = 0;
    ioctl(socket, SIOCOUTQ, &queued);
    return (uint64_t)queued;
}

static int tcp(char **words)
{
    bool up = strcmp(words[0], "up") == 0;
    struct sockaddr_in address = address_of(words[1], words[2]);
    int count = atoi(words[4]), epoll = epoll_create1(0);
    uint64_t rate = strtoull(words[5], NULL, 10), chunk = strtoull(words[6], NULL, 10);
    double seconds = atof(words[7]);
    if (count < 1 || count > MAX_FLOWS || chunk < 1 || chunk > BLOCK)
        refuse();
    struct flow *flows = calloc((size_t)count, sizeof *flows);
    for (int i = 0; i < count; i++) {
        struct flow *flow = &flows[i];
        char name[32], line[LINE];
        flow->socket = socket(AF_INET, SOCK_STREAM, 0);
        snprintf(name, sizeof name, "%s%d", words[3], i);
        if (strcmp(words[3], "-") != 0)
            bind_device(flow->socket, name);
        if (connect(flow->socket, (struct sockaddr *)&address, sizeof address))
            fail("connect");
        int size = snprintf(line, sizeof line, "%s %llu %llu %f\n", up ? "up" : "down", (unsigned long long)rate,
                            (unsigned long long)chunk, seconds);
        if (send(flow->socket, line, (size_t)size, MSG_NOSIGNAL) != size)
            fail("request");
        flow->sends = up;
        flow->paced = rate != 0;
        flow->rate = rate;
        flow->chunk = chunk;
        watch(epoll, flow, EPOLL_CTL_ADD);
    }
    uint64_t began = now_ns(), end = began + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < count; i++) {
        flows[i].start = began + (rate ? (uint64_t)i * (chunk * 1000000000u / rate) / (uint64_t)count : 0);
        flows[i].end = end;
    }
    struct epoll_event events[BATCH];
    while (now_ns() < end) {
        int got = epoll_wait(epoll, events, BATCH, 1);
        for (int i = 0; i < got; i++) {
            struct flow *flow = events[i].data.ptr;
            if (!(flow->sends ? send_due(flow, now_ns()) : discard(flow)))
                epoll_ctl(epoll, EPOLL_CTL_DEL, flow->socket, NULL);
        }
        for (int i = 0; i < count && up && rate; i++)
            send_due(&flows[i], now_ns());
    }
    uint64_t total = 0, least = UINT64_MAX, most = 0;
    double took = (double)(now_ns() - began) / 1e9;
    for (int i = 0; i < count; i++) {
        uint64_t bytes = flows[i].bytes - (up ? unacknowledged(flows[i].socket) : 0);
        total += bytes;
        least = bytes < least ? bytes : least;
        most = bytes > most ? bytes : most;
    }
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"least\": %llu, \"most\": %llu}\n", (unsigned long long)total, took,
           (unsigned long long)least, (unsigned long long)most);
    return 0;
}

/* ---- UDP -------------------------------------------------------------------------------------------------------- */

static int udp(char **words)
{
    struct sockaddr_in address = address_of(words[0], words[1]);
    size_t size = (size_t)atoi(words[3]);
    int burst = atoi(words[4]), segments = atoi(words[7]);
    uint64_t gap = strtoull(words[5], NULL, 10) * 1000, sent = 0, refused = 0;
    double seconds = atof(words[6]);
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (size < 1 || size > MAX_DATAGRAM || burst < 1 || segments < 1 || segments > BATCH ||
        (segments > 1 && segments * size > 65000))
        refuse();
    if (strcmp(words[2], "-") != 0)
        bind_device(sock, words[2]);
    if (connect(sock, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    int room = 8 << 20;
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    uint64_t began = now_ns(), end = began + (uint64_t)(seconds * 1e9), next = began;
    while (now_ns() < end) {
        for (int left = burst; left > 0;) {
            int count = left < segments ? left : segments;
            struct iovec part = {block, size * (size_t)count};
            struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
            char space[CMSG_SPACE(sizeof(uint16_t))] = {0};
            if (count > 1) {
                message.msg_control = space;
                message.msg_controllen = sizeof space;
                struct cmsghdr *header = CMSG_FIRSTHDR(&message);
                header->cmsg_level = SOL_UDP;
                header->cmsg_type = UDP_SEGMENT;
                header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
                uint16_t step = (uint16_t)size;
                memcpy(CMSG_DATA(header), &step, sizeof step);
            }
            if (sendmsg(sock, &message, 0) < 0)
                refused += (uint64_t)count; /* the device's queue is full: that is a loss too */
            sent += (uint64_t)count;
            left -= count;
        }
        if (gap) {
            next += gap;
            struct timespec until = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        }
    }
    printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
           (unsigned long long)refused, (double)(now_ns() - began) / 1e9);
    return 0;
}

/* ---- the other end ---------------------------------------------------------------------------------------------- */

static uint64_t datagrams_got, datagram_bytes;

static void count_datagrams(int sock)
{
    static uint8_t data[BATCH][MAX_DATAGRAM];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){data[i], MAX_DATAGRAM};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int got = recvmmsg(sock, messages, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
        datagrams_got++;
        datagram_bytes += messages[i].msg_len;
    }
}

/* Reads the line with which a flow begins; false when it is none. */
static bool begin(struct flow *flow)
{
    char line[LINE], way[8];
    unsigned long long rate, chunk;
    double seconds;
    ssize_t got = recv(flow->socket, line, sizeof line - 1, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return true;
    if (got <= 0)
        return false;
    line[got] = 0;
    char *end = strchr(line, '\n');
    if (!end)
        return got < (ssize_t)sizeof line - 1;
    if (sscanf(line, "%7s %llu %llu %lf", way, &rate, &chunk, &seconds) != 4 || chunk < 1 || chunk > BLOCK)
        return false;
    if (recv(flow->socket, line, (size_t)(end - line) + 1, 0) <= 0)
        return false;
    flow->begun = true;
    flow->sends = strcmp(way, "down") == 0;
    flow->paced = flow->sends && rate != 0;
    flow->rate = rate;
    flow->chunk = chunk;
    flow->start = now_ns();
    flow->end = flow->start + (uint64_t)(seconds * 1e9) + 1000000000u;
    return true;
}

static int bound(int kind, const char *port)
{
    int sock = socket(AF_INET, kind, 0), one = 1, room = 32 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (kind == SOCK_DGRAM)
        setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    if (bind(sock, (struct sockaddr *)&address, sizeof address))
        fail("bind");
    return sock;
}

static int serve(const char *port)
{
    int listener = bound(SOCK_STREAM, port), datagrams = bound(SOCK_DGRAM, port), epoll = epoll_create1(0);
    static struct flow flows[MAX_FLOWS];
    struct epoll_event events[BATCH], event = {EPOLLIN, {.ptr = &listener}};
    for (int i = 0; i < MAX_FLOWS; i++)
        flows[i].socket = -1;
    listen(listener, MAX_FLOWS);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &datagrams;
    epoll_ctl(epoll, EPOLL_CTL_ADD, datagrams, &event);
    signal(SIGTERM, on_signal);
    puts("ready");
    int pacing = 0; /* flows that send at a rate */
    uint64_t looked = 0;
    while (!stopped) {
        int got = epoll_wait(epoll, events, BATCH, pacing ? 1 : 200);
        for (int i = 0; i < got; i++) {
            struct flow *flow = events[i].data.ptr;
            if (events[i].data.ptr == &datagrams) {
                count_datagrams(datagrams);
            } else if (events[i].data.ptr == &listener) {
                int sock = accept(listener, NULL, NULL), at = 0;
                while (at < MAX_FLOWS && flows[at].socket >= 0)
                    at++;
                if (sock < 0 || at == MAX_FLOWS) {
                    close(sock);
                    continue;
                }
                flows[at] = (struct flow){.socket = sock};
                watch(epoll, &flows[at], EPOLL_CTL_ADD);
            } else {
                bool alive = true;
                if (!flow->begun) {
                    alive = begin(flow);
                    if (alive && flow->begun)
                        watch(epoll, flow, EPOLL_CTL_MOD);
                    pacing += alive && flow->paced;
                } else if (flow->sends) {
                    if (events[i].events & EPOLLIN) /* nothing more is said to a sender: this is the end */
                        alive = false;
                    else if (!flow->paced)
                        alive = send_due(flow, now_ns());
                } else {
                    alive = discard(flow);
                }
                if (!alive) {
                    pacing -= flow->paced;
                    close(flow->socket);
                    flow->socket = -1;
                }
            }
        }
        if (pacing && now_ns() - looked > TICK_NS) {
            looked = now_ns();
            for (int i = 0; i < MAX_FLOWS; i++)
                if (flows[i].socket >= 0 && flows[i].paced)
                    send_due(&flows[i], now_ns());
        }
    }
    printf("{\"datagrams\": %llu, \"bytes\": %llu}\n", (unsigned long long)datagrams_got,
           (unsigned long long)datagram_bytes);
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2]);
    if (argc == 10 && strcmp(argv[1], "tcp") == 0)
        return tcp(argv + 2);
    if (argc == 10 && strcmp(argv[1], "udp") == 0)
        return udp(argv + 2);
    refuse();
}
