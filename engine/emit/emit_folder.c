/* emit/emit_folder.c - a partition's text to the name of its folder.
 *
 *   1000        -> 1000          a/b -> a%2Fb        ..  -> %2E.       -rf -> %2Drf
 *   (none)      -> _             _   -> %5F          300 bytes -> the first 80 ~ 16 hex digits of XXH3-64
 *
 * The text comes from a source that nobody vouches for: no name may leave the folder, hide in it, look like an option,
 * or be that of another partition. `%` and `~` are not safe bytes, so neither can come from the text itself.
 */
#include "flow/change.h"

enum { NAME_MAX_BYTES = 120, NAME_FRONT_BYTES = 80 };

static bool safe(uint8_t c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

char *bsi_partition_folder(const void *partition, size_t bytes) {
    const uint8_t *p = partition;
    if (!bytes) return bsi_strdup("_");
    if (bytes == 1 && p[0] == '_') return bsi_strdup("%5F");
    bsi_buf b = {0};
    for (size_t i = 0; i < bytes; i++) {
        bool plain = safe(p[i]) && (i || (p[i] != '.' && p[i] != '-'));
        if (plain) bsi_buf_byte(&b, p[i]);
        else bsi_buf_addf(&b, "%%%02X", p[i]);
    }
    if (b.len > NAME_MAX_BYTES) {
        b.len = NAME_FRONT_BYTES;
        bsi_buf_addf(&b, "~%016llx", (unsigned long long)bsi_xxh64(p, bytes));
    }
    bsi_buf_byte(&b, 0);
    return (char *)b.data;
}
