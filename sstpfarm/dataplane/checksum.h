/* The Internet checksum (RFC 1071) in the machine's byte order: sums of words as they lie in memory. */
#ifndef SSTPFARM_CHECKSUM_H
#define SSTPFARM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Vector code for the processor that runs it, where compiler and C library can choose at load time. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define SSTPFARM_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define SSTPFARM_CLONES
#endif

typedef uint64_t sstpfarm_words __attribute__((vector_size(64)));

/* The sum of `count` bytes as 32-bit words, zeros behind them; cannot overflow below 16 GiB. */
SSTPFARM_CLONES static uint64_t sstpfarm_sum(const uint8_t *at, size_t count)
{
    sstpfarm_words sums = {0};
    uint64_t sum = 0;
    while (count >= sizeof sums) {
        sstpfarm_words words;
        memcpy(&words, at, sizeof words);
        sums += (words & 0xffffffffu) + (words >> 32);
        at += sizeof words;
        count -= sizeof words;
    }
    for (size_t i = 0; i < sizeof sums / sizeof sum; i++)
        sum += sums[i];
    while (count >= 4) {
        uint32_t word;
        memcpy(&word, at, sizeof word);
        sum += word;
        at += sizeof word;
        count -= sizeof word;
    }
    if (count) {
        uint32_t word = 0;
        memcpy(&word, at, count);
        sum += word;
    }
    return sum;
}

/* The sum as 16 bits; its complement is the checksum. 0 only when every byte was 0. */
static inline uint16_t sstpfarm_fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint16_t)sum;
}

#endif
