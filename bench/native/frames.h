/* The packet path of the native comparator: SSTP data frames on one side, a TUN device with virtio headers on the other.
 *
 * Towards the TUN it coalesces consecutive segments of a TCP or UDP flow (IPv4) into one super-packet, from the TUN it
 * segments super-packets. One instance for each session; nothing is kept between calls but counters.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HEADER = 8,           /* SSTP header and the PPP header FF 03 and protocol */
    MAX_FRAME = 4095,     /* MS-SSTP 2.2.1: 12 bits of length */
    DRAIN_ROOM = 128 * 1024, /* what one super-packet may become, headers of small segments included */
};

struct frames {
    int tun;
    uint64_t packets_in, writes, packets_out, reads, dropped;
};

/* Takes a frame that is not an IPv4 packet: a control packet, or a PPP control frame. */
typedef void (*control_fn)(void *context, const uint8_t *frame, size_t size);

/* Deals with all whole frames in data; returns how many bytes they were, SIZE_MAX when it is no SSTP. */
size_t frames_feed(struct frames *self, uint8_t *data, size_t size, control_fn control, void *context);

/* Reads the TUN until it is empty, `reads` super-packets were read, or less than DRAIN_ROOM is left in out.
 * Returns the bytes put there; *empty says whether the TUN was empty. */
size_t frames_drain(struct frames *self, uint8_t *out, size_t room, int reads, bool *empty);

/* Opens a persistent TUN device of that name with virtio headers and all offloads; -1 with errno set. */
int frames_open_tun(const char *name);
