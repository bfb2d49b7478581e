#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef TUN_F_USO4 /* linux/if_tun.h of kernel 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
    FLOWS = 8,         /* runs that are open at once, in one call of feed */
    TCP_SEGMENTS = 128,
    UDP_SEGMENTS = 64, /* UDP_MAX_SEGMENTS of kernels before 6.9 */
    IP_HEADER = 20,    /* only packets without options are coalesced */
    MAX_HEADER = IP_HEADER + 60,
    MAX_PACKET = 65535,
    TUN_MTU = 1600,    /* bytes of a packet that is no super-packet */
};

typedef struct virtio_net_hdr vnet_t;

/* ---- checksums (RFC 1071) ------------------------------------------------------------------------------------- */

__attribute__((target_clones("default", "avx2", "avx512f"))) static uint64_t sum(const uint8_t *data, size_t size)
{
    uint64_t total = 0;
    size_t at = 0;
    for (; at + 4 <= size; at += 4) {
        uint32_t word;
        memcpy(&word, data + at, 4);
        total += word;
    }
    if (at + 2 <= size) {
        uint16_t word;
        memcpy(&word, data + at, 2);
        total += word;
        at += 2;
    }
    if (at < size)
        total += data[at]; /* little endian: the odd byte is the low one */
    return total;
}

static uint16_t fold(uint64_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

static uint64_t pseudo(const struct iphdr *ip, uint8_t protocol, size_t size)
{
    uint64_t address = (uint64_t)ip->saddr + ip->daddr;
    return address + htons(protocol) + htons((uint16_t)size);
}

static void seal_ip(struct iphdr *ip)
{
    ip->check = 0;
    ip->check = (uint16_t)~fold(sum((uint8_t *)ip, IP_HEADER));
}

/* ---- towards the TUN ------------------------------------------------------------------------------------------ */

/* Consecutive segments of one flow that will be one super-packet; their payloads stay where they were received. */
struct run {
    const uint8_t *first; /* the first packet */
    size_t header;        /* its IP and transport header */
    size_t segment;       /* payload of each segment but the last */
    size_t payload;       /* of all */
    uint32_t next;        /* TCP: the sequence number that continues it */
    int count;            /* 0: no run */
    bool full, push;
    vnet_t vnet;
    uint8_t head[MAX_HEADER];
    struct iovec parts[2 + TCP_SEGMENTS];
};

static struct run runs[FLOWS];
static int oldest; /* the run to give up next when all are taken */

static void put(struct frames *self, struct iovec *parts, int count)
{
    self->writes++;
    if (writev(self->tun, parts, count) < 0)
        self->dropped++;
}

static void put_single(struct frames *self, const uint8_t *packet, size_t size)
{
    static vnet_t none;
    struct iovec parts[] = {{&none, sizeof none}, {(void *)packet, size}};
    put(self, parts, 2);
}

static void close_run(struct frames *self, struct run *run)
{
    if (run->count == 0)
        return;
    if (run->count == 1) {
        put_single(self, run->first, run->header + run->payload);
        run->count = 0;
        return;
    }
    memcpy(run->head, run->first, run->header);
    struct iphdr *ip = (struct iphdr *)run->head;
    size_t transport = run->header - IP_HEADER + run->payload;
    ip->tot_len = htons((uint16_t)(run->header + run->payload));
    seal_ip(ip);
    run->vnet = (vnet_t){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .hdr_len = (uint16_t)run->header,
        .gso_size = (uint16_t)run->segment,
        .csum_start = IP_HEADER,
    };
    uint16_t partial = fold(pseudo(ip, ip->protocol, transport)); /* not complemented: the kernel goes on from it */
    if (ip->protocol == IPPROTO_TCP) {
        struct tcphdr *tcp = (struct tcphdr *)(run->head + IP_HEADER);
        tcp->psh = run->push;
        tcp->check = partial;
        run->vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
        run->vnet.csum_offset = offsetof(struct tcphdr, check);
    } else {
        struct udphdr *udp = (struct udphdr *)(run->head + IP_HEADER);
        udp->len = htons((uint16_t)transport);
        udp->check = partial;
        run->vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        run->vnet.csum_offset = offsetof(struct udphdr, check);
    }
    run->parts[0] = (struct iovec){&run->vnet, sizeof run->vnet};
    run->parts[1] = (struct iovec){run->head, run->header};
    put(self, run->parts, run->count + 2);
    run->count = 0;
}

static void close_all(struct frames *self)
{
    for (int i = 0; i < FLOWS; i++)
        close_run(self, &runs[i]);
}

static struct run *run_of(const uint8_t *packet)
{
    for (int i = 0; i < FLOWS; i++) {
        const uint8_t *first = runs[i].first;
        /* protocol; addresses and ports */
        if (runs[i].count && first[9] == packet[9] && memcmp(first + 12, packet + 12, 12) == 0)
            return &runs[i];
    }
    return NULL;
}

static struct run *free_run(struct frames *self)
{
    for (int i = 0; i < FLOWS; i++)
        if (runs[i].count == 0)
            return &runs[i];
    struct run *run = &runs[oldest];
    oldest = (oldest + 1) % FLOWS;
    close_run(self, run);
    return run;
}

/* Whether the packet can be a segment of a super-packet: a plain one, with a right checksum. */
static bool mergeable(const uint8_t *packet, size_t size, size_t *header)
{
    const struct iphdr *ip = (const struct iphdr *)packet;
    if (ip->protocol == IPPROTO_TCP && size >= IP_HEADER + sizeof(struct tcphdr)) {
        const struct tcphdr *tcp = (const struct tcphdr *)(packet + IP_HEADER);
        *header = IP_HEADER + tcp->doff * 4u;
        if (tcp->doff < 5 || (packet[IP_HEADER + 13] & ~TH_PUSH) != TH_ACK)
            return false;
    } else if (ip->protocol == IPPROTO_UDP && size >= IP_HEADER + sizeof(struct udphdr)) {
        const struct udphdr *udp = (const struct udphdr *)(packet + IP_HEADER);
        *header = IP_HEADER + sizeof(struct udphdr);
        if (udp->check == 0 || ntohs(udp->len) != size - IP_HEADER)
            return false;
    } else {
        return false;
    }
    if (*header >= size) /* no payload */
        return false;
    size_t transport = size - IP_HEADER;
    return fold(sum(packet + IP_HEADER, transport) + pseudo(ip, ip->protocol, transport)) == 0xffff;
}

static bool continues(const struct run *run, const uint8_t *packet, size_t size, size_t header)
{
    const struct iphdr *ip = (const struct iphdr *)packet, *first = (const struct iphdr *)run->first;
    bool is_tcp = ip->protocol == IPPROTO_TCP;
    size_t payload = size - header;
    if (run->full || run->header != header || payload > run->segment || header + run->payload + payload > MAX_PACKET)
        return false;
    if (run->count >= (is_tcp ? TCP_SEGMENTS : UDP_SEGMENTS))
        return false;
    if (ip->tos != first->tos || ip->ttl != first->ttl || ip->frag_off != first->frag_off)
        return false;
    if (!is_tcp)
        return true;
    const uint8_t *ours = packet + IP_HEADER, *theirs = run->first + IP_HEADER;
    return ntohl(((const struct tcphdr *)ours)->seq) == run->next && memcmp(ours + 8, theirs + 8, 4) == 0 /* ack */
           && memcmp(ours + 14, theirs + 14, 2) == 0                                                       /* window */
           && memcmp(ours + 20, theirs + 20, header - IP_HEADER - 20) == 0;                                /* options */
}

static void take_packet(struct frames *self, const uint8_t *packet, size_t size)
{
    const struct iphdr *ip = (const struct iphdr *)packet;
    self->packets_in++;
    if (size < IP_HEADER + 8 || ip->version != 4 || ip->ihl != 5 || ntohs(ip->tot_len) != size ||
        (ntohs(ip->frag_off) & (IP_MF | IP_OFFMASK))) {
        close_all(self);
        put_single(self, packet, size);
        return;
    }
    struct run *run = run_of(packet);
    size_t header = 0;
    if (!mergeable(packet, size, &header)) {
        if (run)
            close_run(self, run);
        put_single(self, packet, size);
        return;
    }
    size_t payload = size - header;
    bool is_tcp = ip->protocol == IPPROTO_TCP;
    if (run && !continues(run, packet, size, header)) {
        close_run(self, run);
        run = NULL;
    }
    if (!run) {
        run = free_run(self);
        run->first = packet;
        run->header = header;
        run->segment = payload;
        run->payload = 0;
        run->full = run->push = false;
        run->next = is_tcp ? ntohl(((const struct tcphdr *)(packet + IP_HEADER))->seq) : 0;
    }
    run->parts[2 + run->count++] = (struct iovec){(void *)(packet + header), payload};
    run->payload += payload;
    run->next += (uint32_t)payload;
    run->full = payload < run->segment;
    if (is_tcp)
        run->push |= (packet[IP_HEADER + 13] & TH_PUSH) != 0;
}

size_t frames_feed(struct frames *self, uint8_t *data, size_t size, control_fn control, void *context)
{
    size_t at = 0;
    while (size - at >= 4) {
        const uint8_t *frame = data + at;
        size_t length = (size_t)(frame[2] & 0x0f) << 8 | frame[3];
        if (frame[0] != 0x10 || length < 4)
            return SIZE_MAX;
        if (size - at < length)
            break;
        if (!(frame[1] & 1) && length > HEADER && frame[4] == 0xff && frame[6] == 0x00 && frame[7] == 0x21)
            take_packet(self, frame + HEADER, length - HEADER);
        else if (control)
            control(context, frame, length);
        at += length;
    }
    close_all(self); /* the runs point into data */
    return at;
}

/* ---- from the TUN --------------------------------------------------------------------------------------------- */

static void put_header(uint8_t *out, size_t packet)
{
    size_t length = packet + HEADER;
    const uint8_t header[HEADER] = {0x10, 0, (uint8_t)(length >> 8 & 0x0f), (uint8_t)length, 0xff, 0x03, 0x00, 0x21};
    memcpy(out, header, HEADER);
}

static size_t segment(struct frames *self, const vnet_t *vnet, const uint8_t *packet, size_t size, uint8_t *out)
{
    const struct iphdr *ip = (const struct iphdr *)packet;
    bool is_tcp = ip->protocol == IPPROTO_TCP;
    const struct tcphdr *tcp = (const struct tcphdr *)(packet + IP_HEADER);
    size_t header = IP_HEADER + (is_tcp ? tcp->doff * 4u : sizeof(struct udphdr));
    size_t step = vnet->gso_size, filled = 0;
    uint32_t sequence = is_tcp ? ntohl(tcp->seq) : 0;
    uint16_t identification = ntohs(ip->id);
    if (ip->ihl != 5 || step == 0 || size <= header ||
        ((size - header) / step + 1) * (header + HEADER) + size > DRAIN_ROOM) {
        self->dropped++;
        return 0;
    }
    for (size_t at = header; at < size; at += step) {
        size_t payload = size - at < step ? size - at : step;
        uint8_t *made = out + filled + HEADER, *transport = made + IP_HEADER;
        put_header(out + filled, header + payload);
        memcpy(made, packet, header);
        memcpy(made + header, packet + at, payload);
        struct iphdr *inner = (struct iphdr *)made;
        inner->tot_len = htons((uint16_t)(header + payload));
        inner->id = htons(identification++);
        seal_ip(inner);
        size_t length = header - IP_HEADER + payload;
        if (is_tcp) {
            struct tcphdr *head = (struct tcphdr *)transport;
            head->seq = htonl(sequence);
            sequence += (uint32_t)payload;
            if (at + payload < size) /* FIN and PSH belong to the last segment, CWR to the first */
                transport[13] &= (uint8_t)~(TH_FIN | TH_PUSH);
            if (at != header)
                transport[13] &= 0x7f;
            head->check = 0;
            head->check = (uint16_t)~fold(sum(transport, length) + pseudo(inner, IPPROTO_TCP, length));
        } else {
            struct udphdr *head = (struct udphdr *)transport;
            head->len = htons((uint16_t)length);
            head->check = 0;
            uint16_t check = (uint16_t)~fold(sum(transport, length) + pseudo(inner, IPPROTO_UDP, length));
            head->check = check ? check : 0xffff;
        }
        filled += HEADER + header + payload;
        self->packets_out++;
    }
    return filled;
}

static void fill_checksum(const vnet_t *vnet, uint8_t *packet, size_t size)
{
    if (!(vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || (size_t)vnet->csum_start + vnet->csum_offset + 2 > size)
        return;
    uint16_t check = (uint16_t)~fold(sum(packet + vnet->csum_start, size - vnet->csum_start));
    if (check == 0)
        check = 0xffff; /* for TCP the two are equal, for UDP 0 would mean none (RFC 768) */
    memcpy(packet + vnet->csum_start + vnet->csum_offset, &check, 2);
}

size_t frames_drain(struct frames *self, uint8_t *out, size_t room, int reads, bool *empty)
{
    static uint8_t super[MAX_PACKET + 1];
    size_t filled = 0;
    *empty = false;
    while (reads-- > 0 && room - filled >= DRAIN_ROOM) {
        vnet_t vnet;
        uint8_t *packet = out + filled + HEADER;
        /* A packet of ordinary size lands where it is sent from; only what is larger is put together elsewhere. */
        struct iovec parts[] = {
            {&vnet, sizeof vnet}, {packet, TUN_MTU}, {super + TUN_MTU, sizeof super - TUN_MTU}};
        ssize_t got = readv(self->tun, parts, 3);
        if (got <= (ssize_t)sizeof vnet) {
            *empty = true;
            break;
        }
        size_t size = (size_t)got - sizeof vnet;
        self->reads++;
        if (packet[0] >> 4 != 4)
            continue;
        if (vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
            memcpy(super, packet, size < TUN_MTU ? size : TUN_MTU);
            filled += segment(self, &vnet, super, size, out + filled);
        } else if (size <= TUN_MTU) {
            fill_checksum(&vnet, packet, size);
            put_header(out + filled, size);
            filled += HEADER + size;
            self->packets_out++;
        } else {
            self->dropped++;
        }
    }
    return filled;
}

int frames_open_tun(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int header = sizeof(vnet_t);
    unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &request) || ioctl(tun, TUNSETVNETHDRSZ, &header))
        return -1;
    if (ioctl(tun, TUNSETPERSIST, 1)) /* to close another one takes 18 ms; these go with their namespace */
        return -1;
    if (ioctl(tun, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) && ioctl(tun, TUNSETOFFLOAD, tcp))
        return -1;
    return tun;
}
