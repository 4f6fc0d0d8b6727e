/* gen_change.c - what changes from one snapshot to the next.
 *
 *     step       1      2      3                   A step is a letter with a rate. For each record and step a hash
 *     mix       c=1    b=.1    e                   says whether the step touches it; the state after step n is the
 *     record    upd     -     rel                  walk over steps 1..n, with no table of what happened before.
 *
 * Clustered steps ask the cluster first (a BOM, or 32 records in a row of other files) and then the record, so that
 * few clusters change a lot and the others not at all. A group of columns counts its changes; each count prints
 * another value than the count before, so a touched record really differs.
 */
#include "gen/gen_inner.h"

#include <math.h>
#include <stdlib.h>

static const double default_rates[8] = {0, 0.1, 1, 7, 100, 1, 100, 50};

/* share of all hashes, 0..1 */
static uint64_t threshold(double share) {
    if (share <= 0) return 0;
    if (share >= 1) return UINT64_MAX;
    return (uint64_t)ldexp(share, 64);
}

static void step_init(bsi_gen_step *s, char mix, double rate, bool cluster) {
    double share = rate / 100, wide = mix == 'd' ? 2 : mix == 'b' ? 4.0 / 3 : 1;
    s->mix = mix;
    s->rate = rate;
    s->clustered = mix == 'c' || mix == 'd' || (mix == 'b' && cluster);
    double touched = s->clustered ? BSI_MIN(share * wide, 1.0) : 1;
    double inside = touched > 0 ? share / touched : 0;
    s->touched = threshold(touched);
    s->inside = threshold(inside);
    bool engineering = mix == 'c' || mix == 'd';
    s->update = engineering ? threshold(inside * 0.70) : mix == 'b' ? s->inside : 0;
    s->remove = engineering ? threshold(inside * 0.75) : 0;
    s->add = engineering ? threshold(inside * 0.25) : 0;
}

static bomsync_status one_step(bsi_gen_step *s, const char **text, bool cluster, bomsync_error *err) {
    char mix = **text;
    if (mix < 'a' || mix > 'h')
        return bsi_fail(err, BOMSYNC_E_USAGE, "cannot read change mix \"%.60s\": a letter a to h is expected", *text);
    ++*text;
    double rate = default_rates[mix - 'a'];
    if (**text == '=') {
        const char *start = *text + 1;
        char *end = NULL;
        rate = strtod(start, &end);
        if (end == start || !(rate >= 0 && rate <= 100))
            return bsi_fail(err, BOMSYNC_E_USAGE, "cannot read rate \"%.60s\": percent from 0 to 100 are expected",
                            start);
        *text = *end == '%' ? end + 1 : end;
    }
    step_init(s, mix, rate, cluster);
    return BOMSYNC_OK;
}

bomsync_status bsi_gen_steps_parse(bsi_gen_step *steps, size_t *count, const char *text, bool cluster,
                                   bomsync_error *err) {
    step_init(&steps[0], 'a', 0, false);
    *count = 0;
    if (!text) return BOMSYNC_OK;
    for (;;) {
        if (*count == BSI_GEN_STEPS_MAX)
            return bsi_fail(err, BOMSYNC_E_USAGE, "cannot generate more than %d steps", BSI_GEN_STEPS_MAX);
        bomsync_status status = one_step(&steps[*count + 1], &text, cluster, err);
        if (status) return status;
        ++*count;
        if (!*text) return BOMSYNC_OK;
        if (*text++ != ',')
            return bsi_fail(err, BOMSYNC_E_USAGE, "cannot read change mix at \"%.60s\": a comma is expected", text - 1);
    }
}

bool bsi_gen_step_touches(const bsi_gen_step *s, uint64_t step, uint64_t cluster) {
    return bsi_gen_hash(cluster ^ 0x636c7573, step) <= s->touched && s->rate > 0;
}

bool bsi_gen_step_adds(const bsi_gen_step *s, uint64_t step, const bsi_gen_who *who) {
    return s->add && bsi_gen_step_touches(s, step, who->cluster) && bsi_gen_hash(who->id ^ 0x616464, step) < s->add;
}

static void update(bsi_gen_state *state, const bsi_gen_who *who, uint64_t h) {
    unsigned pick = (unsigned)(h % 10);
    unsigned group = pick < 6 ? BSI_GEN_AMOUNT : pick < 8 ? BSI_GEN_TEXT : BSI_GEN_WHEN;
    if (!(who->groups >> group & 1)) group = BSI_GEN_AMOUNT;
    if (who->groups >> group & 1) state->n[group]++;
}

static void engineering(bsi_gen_state *state, const bsi_gen_step *s, uint64_t step, const bsi_gen_who *who,
                        uint64_t h) {
    if (h >= s->remove) return;
    if (h >= s->update && who->can & BSI_GEN_CAN_DELETE) {
        state->alive = false;
        return;
    }
    update(state, who, bsi_gen_mix(h));
    state->order_step = (uint16_t)step;
}

void bsi_gen_step_apply(bsi_gen_state *state, const bsi_gen_step *s, uint64_t step, const bsi_gen_who *who) {
    if (!state->alive) return;
    if (s->mix == 'e') {
        if (bsi_gen_hash(who->id, step) < s->inside) state->n[BSI_GEN_RELEASE]++;
        return;
    }
    if (s->mix != 'b' && s->mix != 'c' && s->mix != 'd' && s->mix != 'f') return;
    if (s->clustered && !bsi_gen_step_touches(s, step, who->cluster)) return;
    uint64_t h = bsi_gen_hash(who->id, step);
    if (s->mix == 'f') {
        if (h < s->inside && who->can & BSI_GEN_CAN_REKEY && !who->born) state->rekeyed = (uint16_t)step;
    } else if (s->mix == 'b') {
        if (h < s->update) update(state, who, bsi_gen_mix(h));
    } else {
        engineering(state, s, step, who, h);
    }
}
