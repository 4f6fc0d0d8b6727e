/* gen_entity.c - the columns of each file.
 *
 *     index --hash--> id --hash + salt--> each attribute          column = name + function that prints it
 *                          + count of changes of its group
 *
 * An attribute is a function of the record's hash and of how often its group changed, made so that two counts in a
 * row never print the same. A column that belongs to no group never changes. Keys are functions of the index, so that
 * files refer to each other without any table: a component of bom_line exists in item, a supplier in supplier.
 *
 * Files of master records (plant, item, item_plant, supplier, bom_header, change_order) lose no records and keep their
 * keys, because a deleted item would leave lines that point to nothing; the others do all three.
 */
#include "gen/gen_inner.h"

#define COLUMN(name) static uint8_t *name(uint8_t *p, const bsi_gen_row *r)
#define COUNT(a) (sizeof(a) / sizeof *(a))
#define FAMILIES 3 /* price breaks of a part, lines of a document */

enum { PLANT, ITEM, ITEM_PLANT, SUPPLIER, SOURCING, PRICE, CATALOG, HEADER, LINE, ORDER, DOCUMENT };

/* ---- printing ---- */

static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                            "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                            "8081828384858687888990919293949596979899";

static uint8_t *put_number(uint8_t *p, uint64_t v) {
    uint8_t buf[20], *end = buf + sizeof buf, *q = end;
    while (v >= 100) {
        q -= 2;
        memcpy(q, pairs + v % 100 * 2, 2);
        v /= 100;
    }
    if (v >= 10) {
        q -= 2;
        memcpy(q, pairs + v * 2, 2);
    } else {
        *--q = (uint8_t)('0' + v);
    }
    memcpy(p, q, (size_t)(end - q));
    return p + (end - q);
}

/* width: an even number of digits; a longer number is printed whole */
static uint8_t *put_padded(uint8_t *p, uint64_t v, unsigned width) {
    uint64_t rest = v;
    for (unsigned i = width; i; i -= 2) {
        memcpy(p + i - 2, pairs + rest % 100 * 2, 2);
        rest /= 100;
    }
    return rest ? put_number(p, v) : p + width;
}

static uint8_t *put_bytes(uint8_t *p, const char *s) {
    size_t n = strlen(s);
    memcpy(p, s, n);
    return p + n;
}

static uint8_t *put_cents(uint8_t *p, uint64_t cents) {
    p = put_number(p, cents / 100);
    *p++ = '.';
    memcpy(p, pairs + cents % 100 * 2, 2);
    return p + 2;
}

static uint8_t *put_day(uint8_t *p, const bsi_gen_row *r, uint64_t day) {
    memcpy(p, r->g->days[day % BSI_GEN_DAYS], 10);
    return p + 10;
}

static uint64_t salted(const bsi_gen_row *r, uint64_t salt) {
    return bsi_gen_mix(r->id ^ salt * 0x9e3779b97f4a7c15u);
}

static uint8_t *put_item(uint8_t *p, const bsi_gen_shape *s, uint64_t item) {
    *p++ = item < s->boms ? 'A' : 'P';
    return put_padded(p, item < s->boms ? item : item - s->boms, 8);
}

static uint8_t *put_supplier(uint8_t *p, uint64_t supplier) {
    *p++ = 'V';
    return put_padded(p, supplier, 6);
}

static uint8_t *put_plant(uint8_t *p, const bsi_gen_shape *s, uint64_t plant) {
    return put_number(p, s->plants < 10 ? (plant + 1) * 1000 : 1000 + plant);
}

static uint8_t *put_order(uint8_t *p, uint64_t order) {
    p = put_bytes(p, "ECO");
    return put_padded(p, order, 6);
}

/* A slice of the pool, quoted if it must be. The length never depends on other columns: a changed quantity must not
 * change the text. */
static uint8_t *put_slice(uint8_t *p, const bsi_gen_row *r, uint64_t h, size_t n) {
    const bsi_gen *g = r->g;
    const char *from = g->pool + g->word_start[h & (BSI_GEN_WORD_STARTS - 1)];
    bool quote = g->quoting == BSI_GEN_QUOTE_NEWLINES && memchr(from, '\n', n);
    quote |= g->quoting == BSI_GEN_QUOTE_MINIMAL && g->delimiter == ',' && memchr(from, ',', n);
    if (quote) *p++ = '"';
    memcpy(p, from, n);
    if (n && (p[n - 1] == ' ' || p[n - 1] == '\n' || p[n - 1] >= 0x80)) p[n - 1] = '.';
    if (n > 1 && p[n - 1] == '.' && p[n - 2] >= 0xc0) p[n - 2] = '.';
    p += n;
    unsigned changes = r->state.n[BSI_GEN_TEXT];
    if (changes) p = put_number(put_bytes(p, " rev "), changes);
    if (quote) *p++ = '"';
    return p;
}

/* fixed: bytes of the other columns. Without --row-bytes: least .. least + spread - 1 characters. */
static uint8_t *put_text(uint8_t *p, const bsi_gen_row *r, int fixed, unsigned least, unsigned spread) {
    uint64_t h = salted(r, 901);
    int64_t n = (int64_t)(least + (h >> 32) % spread);
    if (r->g->row_bytes) n = r->g->row_bytes - fixed + (int64_t)(h >> 32 & 7) - 4;
    return put_slice(p, r, h, n > 0 ? (size_t)n : 0);
}

static uint8_t *put_pick(uint8_t *p, uint64_t h, const char *const *list, size_t count) {
    return put_bytes(p, list[bsi_gen_below(h, count)]);
}
#define PICK(p, h, list) put_pick(p, h, list, COUNT(list))

static const char *const countries[] = {"DE", "US", "CN", "FR", "JP", "MX", "PL", "IN"};
static const char *const currencies[] = {"EUR", "USD", "CNY", "JPY"};
static const char *const regions[] = {"EMEA", "APAC", "AMER"};
static const char *const terms[] = {"NET30", "NET45", "NET60", "2/10 NET30", "COD", "NET90"};

/* ---- columns of many files ---- */

COLUMN(release) {
    return put_number(put_bytes(p, "2026."), 1u + r->state.n[BSI_GEN_RELEASE]);
}

COLUMN(status) {
    static const char *const list[] = {"active", "blocked", "released", "review"};
    uint64_t base = salted(r, 1) & 15;
    return put_bytes(p, list[((base < 13 ? 0 : base - 12) + r->state.n[BSI_GEN_WHEN]) % COUNT(list)]);
}

COLUMN(valid_from) {
    return put_day(p, r, r->born ? 3700 + r->born % 300 : (salted(r, 2) & 0xffff) % 3650);
}

/* open, or a date that moves by a week with each change */
COLUMN(valid_to) {
    uint64_t h = salted(r, 3), changes = r->state.n[BSI_GEN_WHEN];
    if (!changes && h % 32) return p;
    return put_day(p, r, (h >> 8 & 2047) + 1500 + changes * 7);
}

COLUMN(price) {
    return put_cents(p, 50 + (salted(r, 4) & 0xfffff) % 90000 + (uint64_t)r->state.n[BSI_GEN_AMOUNT] * 7);
}

COLUMN(country) {
    return PICK(p, salted(r, 5), countries);
}

COLUMN(currency) {
    return PICK(p, salted(r, 6), currencies);
}

COLUMN(region) {
    return PICK(p, salted(r, 7), regions);
}

COLUMN(uom_each) {
    (void)r;
    return put_bytes(p, "EA");
}

/* ---- plant ---- */

COLUMN(plant_id) {
    return put_plant(p, &r->g->shape, r->index);
}

COLUMN(plant_name) {
    return put_number(put_bytes(p, "Plant "), r->index + 1);
}

COLUMN(business_unit) {
    return put_number(put_bytes(p, "BU"), r->index / 2 + 1);
}

COLUMN(company) {
    return put_number(put_bytes(p, "C"), 100 + r->index / 4);
}

COLUMN(timezone) {
    static const char *const list[] = {"Europe/Berlin", "America/Chicago", "Asia/Shanghai", "Asia/Tokyo"};
    return PICK(p, salted(r, 8), list);
}

COLUMN(plant_calendar) {
    return put_number(put_bytes(p, "CAL"), salted(r, 9) % 20 + r->state.n[BSI_GEN_AMOUNT]);
}

static const bsi_gen_column plant_columns[] = {
    {.name = "plant", .put = plant_id, .key = true},
    {.name = "name", .put = plant_name},
    {.name = "region", .put = region},
    {.name = "business_unit", .put = business_unit},
    {.name = "company", .put = company},
    {.name = "country", .put = country},
    {.name = "currency", .put = currency},
    {.name = "timezone", .put = timezone},
    {.name = "status", .put = status, .group = 1 + BSI_GEN_WHEN},
    {.name = "x_calendar", .put = plant_calendar, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- item ---- */

COLUMN(item_id) {
    return put_item(p, &r->g->shape, r->index);
}

COLUMN(item_text) {
    return put_text(p, r, 100, 10, 60);
}

COLUMN(item_type) {
    return put_bytes(p, r->index < r->g->shape.boms ? "assembly" : "part");
}

COLUMN(item_group) {
    return put_number(put_bytes(p, "G"), 100 + salted(r, 10) % 200);
}

COLUMN(item_make) {
    return put_bytes(p, r->index < r->g->shape.boms ? "make" : "buy");
}

COLUMN(item_weight) {
    return put_cents(p, 1 + (salted(r, 11) & 0xffff) % 20000 + r->state.n[BSI_GEN_AMOUNT]);
}

COLUMN(weight_uom) {
    (void)r;
    return put_bytes(p, "KGM");
}

COLUMN(gtin) {
    uint64_t h = salted(r, 12);
    if (h % 10 < 8) return p; /* most industrial parts have none */
    return put_padded(put_number(p, 4), h >> 24, 12);
}

COLUMN(classification) {
    return put_padded(p, 23000000 + salted(r, 13) % 9000 * 100, 8);
}

static const bsi_gen_column item_columns[] = {
    {.name = "item", .put = item_id, .key = true},
    {.name = "description", .put = item_text, .group = 1 + BSI_GEN_TEXT},
    {.name = "type", .put = item_type},
    {.name = "base_uom", .put = uom_each},
    {.name = "group", .put = item_group},
    {.name = "status", .put = status, .group = 1 + BSI_GEN_WHEN},
    {.name = "make_buy", .put = item_make},
    {.name = "weight", .put = item_weight, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "weight_uom", .put = weight_uom},
    {.name = "gtin", .put = gtin},
    {.name = "classification", .put = classification},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- item_plant: all items of the first plant, of the second, ..; added items after that with all their plants ----
 */

static uint64_t extension_item(const bsi_gen_row *r) {
    const bsi_gen_shape *s = &r->g->shape;
    uint64_t base = s->items * s->plants;
    return r->index < base ? r->index % s->items : s->items + (r->index - base) / s->plants;
}

COLUMN(extension_item_id) {
    return put_item(p, &r->g->shape, extension_item(r));
}

COLUMN(extension_plant) {
    const bsi_gen_shape *s = &r->g->shape;
    uint64_t base = s->items * s->plants;
    return put_plant(p, s, r->index < base ? r->index / s->items : (r->index - base) % s->plants);
}

COLUMN(mrp_type) {
    static const char *const list[] = {"PD", "VB", "ND", "P2"};
    return PICK(p, salted(r, 14), list);
}

COLUMN(procurement) {
    return put_bytes(p, extension_item(r) < r->g->shape.boms ? "make" : "buy");
}

COLUMN(phantom) {
    return put_bytes(p, salted(r, 15) % 25 ? "false" : "true");
}

COLUMN(delivery_days) {
    return put_number(p, 1 + salted(r, 16) % 60 + r->state.n[BSI_GEN_AMOUNT]);
}

COLUMN(safety_stock) {
    return put_number(p, salted(r, 17) % 50 * 10);
}

COLUMN(lot_size) {
    static const char *const list[] = {"EX", "FX", "WB", "HB"};
    return PICK(p, salted(r, 18), list);
}

COLUMN(planner) {
    return put_number(put_bytes(p, "MC"), 10 + salted(r, 19) % 80);
}

COLUMN(storage) {
    return put_number(put_bytes(p, "WH"), 10 + salted(r, 20) % 40);
}

static const bsi_gen_column item_plant_columns[] = {
    {.name = "item", .put = extension_item_id, .key = true},
    {.name = "plant", .put = extension_plant, .key = true},
    {.name = "status", .put = status, .group = 1 + BSI_GEN_WHEN},
    {.name = "mrp_type", .put = mrp_type},
    {.name = "procurement", .put = procurement},
    {.name = "phantom", .put = phantom},
    {.name = "planned_delivery_days", .put = delivery_days, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "safety_stock", .put = safety_stock},
    {.name = "lot_size", .put = lot_size},
    {.name = "planner", .put = planner},
    {.name = "storage_loc", .put = storage},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- supplier ---- */

COLUMN(supplier_id) {
    return put_supplier(p, r->index);
}

COLUMN(supplier_name) {
    static const char *const first[] = {"Nord", "M\xc3\xbcller", "Allied", "Pacific", "Kobe",
                                        "Lyon", "Great Lakes",   "Wuxi",   "Silesia", "Monterrey"};
    static const char *const second[] = {"Fasteners", "Precision",   "Components",
                                         "Castings",  "Electronics", "Hydraulics"};
    static const char *const third[] = {"GmbH", "Inc.", "Co. Ltd", "SA", "Sp. z o.o."};
    uint64_t h = salted(r, 21);
    p = put_pick(p, h, first, COUNT(first));
    *p++ = ' ';
    p = put_pick(p, bsi_gen_mix(h), second, COUNT(second));
    *p++ = ' ';
    p = put_pick(p, bsi_gen_mix(h + 1), third, COUNT(third));
    if (r->state.n[BSI_GEN_TEXT]) p = put_number(put_bytes(p, " "), r->state.n[BSI_GEN_TEXT] + 1u);
    return p;
}

COLUMN(tax_id) {
    return put_padded(put_bytes(p, "TX"), salted(r, 22) >> 34, 10);
}

COLUMN(duns) {
    return put_padded(put_number(p, 1 + salted(r, 23) % 9), salted(r, 24) % 100000000, 8);
}

COLUMN(payment_terms) {
    return put_bytes(p, terms[(salted(r, 25) + r->state.n[BSI_GEN_AMOUNT]) % COUNT(terms)]);
}

static const bsi_gen_column supplier_columns[] = {
    {.name = "supplier", .put = supplier_id, .key = true},
    {.name = "name", .put = supplier_name, .group = 1 + BSI_GEN_TEXT},
    {.name = "tax_id", .put = tax_id},
    {.name = "duns", .put = duns},
    {.name = "status", .put = status, .group = 1 + BSI_GEN_WHEN},
    {.name = "country", .put = country},
    {.name = "currency", .put = currency},
    {.name = "payment_terms", .put = payment_terms, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "region", .put = region},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- sourcing_rule: one for each part, a second one for every other part ---- */

static uint64_t rule_base(const bsi_gen_shape *s) {
    return s->leaves + s->leaves / 2;
}

static uint64_t rule_leaf(const bsi_gen_row *r) {
    const bsi_gen_shape *s = &r->g->shape;
    return r->index < rule_base(s) ? r->index % s->leaves : bsi_gen_below(r->id, s->leaves);
}

static uint64_t supplier_of_leaf(const bsi_gen_shape *s, uint64_t leaf, uint64_t rank) {
    return (bsi_gen_hash(s->seed ^ 0x737570, leaf) + rank) % s->suppliers;
}

/* what the supplier calls the part; unique in the file, since added rules carry their own index */
static uint64_t rule_rank(const bsi_gen_row *r) {
    const bsi_gen_shape *s = &r->g->shape;
    return r->index < rule_base(s) ? r->index / s->leaves : r->index;
}

COLUMN(rule_item) {
    return put_item(p, &r->g->shape, r->g->shape.boms + rule_leaf(r));
}

COLUMN(rule_plant) {
    const bsi_gen_shape *s = &r->g->shape;
    return put_plant(p, s, (bsi_gen_hash(s->seed, rule_leaf(r)) + rule_rank(r)) % s->plants);
}

COLUMN(rule_supplier) {
    return put_supplier(p, supplier_of_leaf(&r->g->shape, rule_leaf(r), rule_rank(r)));
}

static uint8_t *put_rule_part(uint8_t *p, uint64_t leaf, uint64_t rank) {
    p = put_number(p, leaf);
    *p++ = '-';
    return put_number(p, rank + 1);
}

COLUMN(rule_part) {
    return put_rule_part(p, rule_leaf(r), rule_rank(r));
}

COLUMN(rule_rank_text) {
    return put_number(p, BSI_MIN(rule_rank(r), 2) + 1);
}

COLUMN(quota) {
    (void)r;
    return put_bytes(p, "100");
}

COLUMN(lead_time) {
    return put_number(p, 5 + salted(r, 26) % 90);
}

COLUMN(moq) {
    static const char *const list[] = {"1", "10", "50", "100", "500"};
    return PICK(p, salted(r, 27), list);
}

COLUMN(contract) {
    return put_padded(put_bytes(p, "46"), salted(r, 28) >> 44, 8);
}

COLUMN(incoterm) {
    static const char *const list[] = {"DAP", "FCA", "EXW", "DDP"};
    return PICK(p, salted(r, 29), list);
}

static const bsi_gen_column sourcing_columns[] = {
    {.name = "item", .put = rule_item, .key = true},
    {.name = "plant", .put = rule_plant, .key = true},
    {.name = "supplier", .put = rule_supplier, .key = true},
    {.name = "supplier_part", .put = rule_part, .key = true},
    {.name = "valid_from", .put = valid_from, .key = true},
    {.name = "rank", .put = rule_rank_text},
    {.name = "quota", .put = quota},
    {.name = "lead_time_days", .put = lead_time},
    {.name = "moq", .put = moq},
    {.name = "order_uom", .put = uom_each},
    {.name = "price", .put = price, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "contract", .put = contract},
    {.name = "contract_valid_to", .put = valid_to, .group = 1 + BSI_GEN_WHEN},
    {.name = "incoterm", .put = incoterm},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- price_break: three quantities for the first supplier of each part ---- */

static uint64_t break_leaf(const bsi_gen_row *r) {
    const bsi_gen_shape *s = &r->g->shape;
    return r->index < s->leaves * FAMILIES ? r->index / FAMILIES : bsi_gen_below(r->id, s->leaves);
}

COLUMN(break_item) {
    return put_item(p, &r->g->shape, r->g->shape.boms + break_leaf(r));
}

COLUMN(break_supplier) {
    return put_supplier(p, supplier_of_leaf(&r->g->shape, break_leaf(r), 0));
}

COLUMN(break_part) {
    return put_rule_part(p, break_leaf(r), 0);
}

COLUMN(any_plant) {
    (void)r;
    *p = '*';
    return p + 1;
}

COLUMN(break_currency) {
    return PICK(p, bsi_gen_hash(r->g->shape.seed ^ 0x637572, break_leaf(r)), currencies);
}

COLUMN(break_from) {
    return put_day(p, r, 3653); /* a price list of one day */
}

COLUMN(min_qty) {
    static const char *const list[] = {"1", "100", "1000"};
    uint64_t base = r->g->shape.leaves * FAMILIES;
    return r->index < base ? put_bytes(p, list[r->index % FAMILIES]) : put_number(p, 10000 + r->index - base);
}

COLUMN(price_per) {
    return put_bytes(p, salted(r, 30) % 8 ? "1" : "100");
}

COLUMN(price_kind) {
    static const char *const list[] = {"list", "contract", "quote"};
    return PICK(p, salted(r, 31), list);
}

static const bsi_gen_column price_columns[] = {
    {.name = "item", .put = break_item, .key = true},
    {.name = "supplier", .put = break_supplier, .key = true},
    {.name = "supplier_part", .put = break_part, .key = true},
    {.name = "plant", .put = any_plant, .key = true},
    {.name = "currency", .put = break_currency, .key = true},
    {.name = "valid_from", .put = break_from, .key = true},
    {.name = "min_qty", .put = min_qty, .key = true},
    {.name = "price", .put = price, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "price_per", .put = price_per},
    {.name = "uom", .put = uom_each},
    {.name = "kind", .put = price_kind},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- catalog_item ---- */

static uint64_t catalog_supplier(const bsi_gen_row *r) {
    const bsi_gen_shape *s = &r->g->shape;
    if (r->index >= s->catalog) return bsi_gen_below(r->id, s->suppliers);
    return (uint64_t)((unsigned __int128)r->index * s->suppliers / s->catalog);
}

COLUMN(catalog_supplier_id) {
    return put_supplier(p, catalog_supplier(r));
}

COLUMN(catalog_part) {
    *p++ = 'C';
    p = put_padded(p, r->index, 8);
    if (r->state.rekeyed) p = put_number(put_bytes(p, "-R"), r->state.rekeyed);
    return p;
}

COLUMN(catalog_item_id) {
    uint64_t h = salted(r, 32);
    if (h & 1) return p; /* half of a catalogue is bought by nobody */
    return put_item(p, &r->g->shape, r->g->shape.boms + bsi_gen_below(h, r->g->shape.leaves));
}

COLUMN(catalog_text) {
    return put_text(p, r, 110, 20, 70);
}

COLUMN(manufacturer) {
    static const char *const list[] = {"Acme", "Borealis", "Cygnus", "Delta-T", "Eberhardt", "Fujita"};
    return PICK(p, salted(r, 33), list);
}

COLUMN(mpn) {
    uint64_t h = salted(r, 34);
    *p++ = (uint8_t)('A' + h % 26);
    *p++ = (uint8_t)('A' + h / 26 % 26);
    return put_padded(p, h >> 44, 8);
}

COLUMN(factor) {
    static const char *const list[] = {"1", "10", "12", "100"};
    return PICK(p, salted(r, 35), list);
}

COLUMN(tax) {
    return put_bytes(p, salted(r, 36) & 7 ? "19" : "7");
}

static const bsi_gen_column catalog_columns[] = {
    {.name = "supplier", .put = catalog_supplier_id, .key = true},
    {.name = "supplier_part", .put = catalog_part, .key = true},
    {.name = "item", .put = catalog_item_id},
    {.name = "description", .put = catalog_text, .group = 1 + BSI_GEN_TEXT},
    {.name = "manufacturer", .put = manufacturer},
    {.name = "mpn", .put = mpn},
    {.name = "class", .put = classification},
    {.name = "order_uom", .put = uom_each},
    {.name = "content_uom", .put = uom_each},
    {.name = "factor", .put = factor},
    {.name = "delivery_days", .put = delivery_days, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "tax", .put = tax},
    {.name = "gtin", .put = gtin},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- bom_header, bom_line ---- */

COLUMN(bom_plant) {
    return put_plant(p, &r->g->shape, r->header.plant);
}

COLUMN(bom_parent) {
    return put_item(p, &r->g->shape, r->header.parent);
}

COLUMN(bom_usage) {
    (void)r;
    return put_bytes(p, "production");
}

COLUMN(bom_alternative) {
    return put_number(p, r->header.alternative);
}

COLUMN(header_revision) {
    return put_number(put_bytes(p, "R"), 1 + salted(r, 37) % 9 + r->state.n[BSI_GEN_AMOUNT]);
}

COLUMN(base_qty) {
    return put_bytes(p, salted(r, 38) % 16 ? "1" : "100");
}

COLUMN(header_text) {
    return put_slice(p, r, salted(r, 39), 6 + salted(r, 40) % 24);
}

static const bsi_gen_column header_columns[] = {
    {.name = "plant", .put = bom_plant, .key = true},
    {.name = "parent", .put = bom_parent, .key = true},
    {.name = "usage", .put = bom_usage, .key = true},
    {.name = "alternative", .put = bom_alternative, .key = true},
    {.name = "revision", .put = header_revision, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "base_qty", .put = base_qty},
    {.name = "base_uom", .put = uom_each},
    {.name = "status", .put = status, .group = 1 + BSI_GEN_WHEN},
    {.name = "phantom", .put = phantom},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {.name = "text", .put = header_text, .group = 1 + BSI_GEN_TEXT},
    {0},
};

/* A node number: unique in its BOM for good. 10, 20, .. at the start, the step in front for added ones, 5 at the end
 * for those that a step numbered anew. */
COLUMN(line_number) {
    uint64_t step = r->born ? r->born : r->state.rekeyed, slot = (r->slot + 1) * 10;
    return put_number(p, step * 100000 + slot + (r->state.rekeyed ? 5 : 0));
}

COLUMN(line_component) {
    return put_item(p, &r->g->shape, bsi_gen_component(&r->g->shape, &r->header, r->slot, r->born, r->id));
}

COLUMN(line_position) {
    return put_padded(p, (r->slot + 1) * 10, 4);
}

static bool is_measured(const bsi_gen_row *r) {
    return (salted(r, 41) & 31) == 0; /* wire, oil, sheet: sold by length or weight */
}

COLUMN(line_qty) {
    static const char *const counted[16] = {"1", "2",  "4",  "3",  "6", "8", "10", "12",
                                            "5", "16", "20", "24", "7", "9", "30", "36"};
    static const char *const measured[16] = {"0.5",  "1.25", "0.25", "2.5", "0.125", "3.75", "0.8",  "1.6",
                                             "0.05", "12.5", "0.33", "4.2", "0.015", "7.5",  "0.66", "9.9"};
    uint64_t h = salted(r, 42), pick = h & 255,
             base = pick < 128   ? 0
                    : pick < 176 ? 1
                    : pick < 208 ? 2
                                 : 3 + (h >> 8) % 13;
    base = (base + r->state.n[BSI_GEN_AMOUNT]) & 15;
    return put_bytes(p, is_measured(r) ? measured[base] : counted[base]);
}

COLUMN(line_uom) {
    return put_bytes(p, is_measured(r) ? "MTR" : "EA");
}

/* the order that changed it last, or for some the one that made it */
COLUMN(change_no) {
    const bsi_gen *g = r->g;
    uint64_t step = r->state.order_step ? r->state.order_step : r->born;
    if (step) {
        uint64_t first = g->order_start[step], count = g->order_start[step + 1] - first;
        return put_order(p, first + bsi_gen_below(bsi_gen_hash(r->cluster, step), count));
    }
    uint64_t h = salted(r, 43);
    return (h & 7) < 3 ? put_order(p, bsi_gen_below(h, g->shape.orders)) : p;
}

COLUMN(refdes) {
    uint64_t h = salted(r, 44), from = 1 + (h >> 8) % 900;
    if (h & 3) return p;
    *p++ = (uint8_t) "RCLUJXQD"[h >> 2 & 7];
    p = put_number(p, from);
    if (!(h >> 5 & 1)) return p;
    *p++ = '-';
    *p++ = (uint8_t) "RCLUJXQD"[h >> 2 & 7];
    return put_number(p, from + 1 + (h >> 6 & 3));
}

COLUMN(line_text) {
    int row = r->g->row_bytes, fixed = row < 92 ? 59 : row < 150 ? 79 : 99;
    return put_text(p, r, fixed, 8, 24);
}

COLUMN(line_category) {
    static const char *const list[] = {"stock", "stock", "stock", "non-stock", "document", "phantom"};
    return PICK(p, salted(r, 45), list);
}

COLUMN(operation) {
    return put_padded(p, 10 + salted(r, 46) % 20 * 10, 4);
}

COLUMN(scrap) {
    uint64_t h = salted(r, 47);
    return h & 7 ? p : put_cents(p, (h >> 8) % 500);
}

COLUMN(lead_offset) {
    return put_number(p, salted(r, 48) % 10);
}

COLUMN(supply_loc) {
    return put_number(put_bytes(p, "SL"), 10 + salted(r, 49) % 40);
}

static const bsi_gen_column line_columns[] = {
    {.name = "plant", .put = bom_plant, .key = true},
    {.name = "parent", .put = bom_parent, .key = true},
    {.name = "usage", .put = bom_usage, .key = true},
    {.name = "alternative", .put = bom_alternative, .key = true},
    {.name = "line", .put = line_number, .key = true},
    {.name = "component", .put = line_component},
    {.name = "position", .put = line_position, .min_row_bytes = 58},
    {.name = "qty", .put = line_qty, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "uom", .put = line_uom},
    {.name = "valid_from", .put = valid_from, .min_row_bytes = 92},
    {.name = "valid_to", .put = valid_to, .group = 1 + BSI_GEN_WHEN, .min_row_bytes = 92},
    {.name = "change_no", .put = change_no, .min_row_bytes = 92},
    {.name = "refdes", .put = refdes, .min_row_bytes = 92},
    {.name = "category", .put = line_category, .min_row_bytes = 150, .wide_only = true},
    {.name = "operation", .put = operation, .min_row_bytes = 150, .wide_only = true},
    {.name = "component_scrap_pct", .put = scrap, .min_row_bytes = 150, .wide_only = true},
    {.name = "lead_time_offset", .put = lead_offset, .min_row_bytes = 150, .wide_only = true},
    {.name = "supply_loc", .put = supply_loc, .min_row_bytes = 150, .wide_only = true},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {.name = "text", .put = line_text, .group = 1 + BSI_GEN_TEXT, .min_row_bytes = 64},
    {0},
};

/* ---- change_order ---- */

COLUMN(order_id) {
    return put_order(p, r->index);
}

COLUMN(order_type) {
    static const char *const list[] = {"ECO", "deviation", "mandatory"};
    return PICK(p, salted(r, 50), list);
}

COLUMN(order_status) {
    static const char *const list[] = {"draft", "released", "effective", "closed"};
    return put_bytes(p, list[((salted(r, 51) & 1) + 1 + r->state.n[BSI_GEN_AMOUNT]) % COUNT(list)]);
}

COLUMN(released_at) {
    return put_bytes(put_day(p, r, 3000 + salted(r, 52) % 600 + r->born), "T06:00:00Z");
}

COLUMN(requester) {
    static const char *const list[] = {"engineering", "quality", "procurement", "service"};
    return PICK(p, salted(r, 53), list);
}

static const bsi_gen_column order_columns[] = {
    {.name = "change_no", .put = order_id, .key = true},
    {.name = "type", .put = order_type},
    {.name = "status", .put = order_status, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "effective", .put = valid_to, .group = 1 + BSI_GEN_WHEN},
    {.name = "released_at", .put = released_at},
    {.name = "requester", .put = requester},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- procurement_document: three lines each ---- */

COLUMN(document_system) {
    (void)r;
    return put_bytes(p, "ERP1");
}

COLUMN(document_id) {
    p = put_bytes(p, r->state.rekeyed ? "47" : "45");
    if (r->state.rekeyed) p = put_padded(p, r->state.rekeyed, 4);
    return put_padded(p, r->index / FAMILIES, 8);
}

COLUMN(document_line) {
    return put_number(p, (r->index % FAMILIES + 1) * 10);
}

COLUMN(document_kind) {
    return put_bytes(p, salted(r, 54) & 3 ? "order" : "requisition");
}

static uint64_t document_leaf(const bsi_gen_row *r) {
    return bsi_gen_below(salted(r, 55), r->g->shape.leaves);
}

COLUMN(document_item) {
    return put_item(p, &r->g->shape, r->g->shape.boms + document_leaf(r));
}

COLUMN(document_plant) {
    return put_plant(p, &r->g->shape, bsi_gen_below(salted(r, 56), r->g->shape.plants));
}

COLUMN(document_supplier) {
    return put_supplier(p, supplier_of_leaf(&r->g->shape, document_leaf(r), 0));
}

COLUMN(open_qty) {
    return put_number(p, 1 + salted(r, 57) % 500 + r->state.n[BSI_GEN_AMOUNT]);
}

COLUMN(due) {
    return put_day(p, r, 3900 + (salted(r, 58) & 63) + r->state.n[BSI_GEN_WHEN]);
}

COLUMN(buyer) {
    return put_number(put_bytes(p, "B"), 100 + salted(r, 59) % 60);
}

static const bsi_gen_column document_columns[] = {
    {.name = "system", .put = document_system, .key = true},
    {.name = "document", .put = document_id, .key = true},
    {.name = "line", .put = document_line, .key = true},
    {.name = "kind", .put = document_kind},
    {.name = "item", .put = document_item},
    {.name = "plant", .put = document_plant},
    {.name = "supplier", .put = document_supplier},
    {.name = "open_qty", .put = open_qty, .group = 1 + BSI_GEN_AMOUNT},
    {.name = "uom", .put = uom_each},
    {.name = "due", .put = due, .group = 1 + BSI_GEN_WHEN},
    {.name = "buyer", .put = buyer},
    {.name = "currency", .put = currency},
    {.name = "x_release", .put = release, .group = 1 + BSI_GEN_RELEASE},
    {0},
};

/* ---- the table ---- */

#define ALL (BSI_GEN_CAN_ADD | BSI_GEN_CAN_DELETE | BSI_GEN_CAN_REKEY)
const bsi_gen_entity bsi_gen_entities[] = {
    [PLANT] = {"plant", 0, plant_columns},
    [ITEM] = {"item", BSI_GEN_CAN_ADD, item_columns},
    [ITEM_PLANT] = {"item_plant", BSI_GEN_CAN_ADD, item_plant_columns},
    [SUPPLIER] = {"supplier", BSI_GEN_CAN_ADD, supplier_columns},
    [SOURCING] = {"sourcing_rule", BSI_GEN_CAN_ADD | BSI_GEN_CAN_DELETE, sourcing_columns},
    [PRICE] = {"price_break", BSI_GEN_CAN_ADD | BSI_GEN_CAN_DELETE, price_columns},
    [CATALOG] = {"catalog_item", ALL, catalog_columns},
    [HEADER] = {"bom_header", 0, header_columns},
    [LINE] = {"bom_line", ALL, line_columns},
    [ORDER] = {"change_order", BSI_GEN_CAN_ADD, order_columns},
    [DOCUMENT] = {"procurement_document", ALL, document_columns},
};
const size_t bsi_gen_entity_count = COUNT(bsi_gen_entities);

size_t bsi_gen_bom_line(void) {
    return LINE;
}

size_t bsi_gen_bom_header(void) {
    return HEADER;
}

uint64_t bsi_gen_base_count(const bsi_gen *g, size_t entity) {
    const bsi_gen_shape *s = &g->shape;
    switch (entity) {
    case PLANT:
        return s->plants;
    case ITEM:
        return s->items;
    case ITEM_PLANT:
        return s->items * s->plants;
    case SUPPLIER:
        return s->suppliers;
    case SOURCING:
        return rule_base(s);
    case PRICE:
        return s->leaves * FAMILIES;
    case CATALOG:
        return s->catalog;
    case HEADER:
        return s->headers;
    case LINE:
        return s->lines;
    case ORDER:
        return s->orders;
    default:
        return s->leaves / 2 * FAMILIES;
    }
}

/* A quarter of an engineering step's records are new ones. Each added item has all plants. */
uint64_t bsi_gen_added_count(const bsi_gen *g, size_t entity, uint64_t step) {
    const bsi_gen_step *s = &g->steps[step];
    if ((s->mix != 'c' && s->mix != 'd') || !(bsi_gen_entities[entity].can & BSI_GEN_CAN_ADD) || entity == LINE)
        return 0;
    if (entity == ORDER) return g->order_start[step + 1] - g->order_start[step];
    if (entity == ITEM_PLANT) return bsi_gen_added_count(g, ITEM, step) * g->shape.plants;
    return (uint64_t)((double)bsi_gen_base_count(g, entity) * s->rate / 400);
}

/* One change order for about three BOMs that a step touches; the steps without one have an order too, which nobody
 * uses, so that a count is never 0. */
void bsi_gen_orders_init(bsi_gen *g) {
    g->order_start[0] = 0;
    g->order_start[1] = g->shape.orders;
    for (size_t t = 1; t <= g->step_count; t++) {
        const bsi_gen_step *s = &g->steps[t];
        bool engineering = s->mix == 'c' || s->mix == 'd';
        uint64_t touched = engineering ? (uint64_t)((double)g->shape.headers * s->rate / 100) / 3 + 1 : 0;
        g->order_start[t + 1] = g->order_start[t] + touched;
    }
}
