/* How many of the first BYTES of a file, in pages, are not on the disk: dirty, or on their way there.
 *
 *   unsynced FILE BYTES
 *
 * What was synced and not written again since is neither, whoever asked for the sync and in whatever way. Ends with 3 where
 * the kernel cannot say (before Linux 6.5). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The same on all architectures, and not in every libc yet. */
#define CACHESTAT 451

struct range {
    uint64_t offset, length;
};

struct pages {
    uint64_t cached, dirty, on_their_way, evicted, evicted_recently;
};

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "unsynced FILE BYTES\n");
        return 2;
    }
    struct range range = {0, strtoull(words[2], NULL, 10)};
    struct pages pages = {0};
    int file = open(words[1], O_RDWR | O_CLOEXEC);
    if (file < 0) {
        perror(words[1]);
        return 1;
    }
    /* A length of 0 would mean all of it. */
    if (range.length > 0 && syscall(CACHESTAT, file, &range, &pages, 0) != 0) {
        perror("cachestat");
        return errno == ENOSYS ? 3 : 1;
    }
    printf("%" PRIu64 "\n", pages.dirty + pages.on_their_way);
    return 0;
}
