/* cli_commands.c - the table: every command, option, sentence of help and example of the program.
 *
 * Help, man pages and shell completion are printed from this table, so a command or an option that is added here is
 * documented everywhere or nowhere. Options come in three sets: a command's own, those about reading snapshots, and
 * those of every command.
 */
#include "cli_actions.h"
#include "exit_codes.h"

#define PLACE(member) offsetof(bsi_cli_args, member)
#define END                                                                                                            \
    { 0 }
#define FLAG(n, m, h)                                                                                                  \
    { .name = n, .kind = BSI_CLI_FLAG, .place = PLACE(m), .help = h }
#define TEXT(n, a, m, h)                                                                                               \
    { .name = n, .kind = BSI_CLI_TEXT, .argument = a, .place = PLACE(m), .help = h }
#define NEED(n, a, m, h)                                                                                               \
    { .name = n, .kind = BSI_CLI_TEXT, .required = true, .argument = a, .place = PLACE(m), .help = h }
#define LIST(n, a, m, h)                                                                                               \
    { .name = n, .kind = BSI_CLI_LIST, .argument = a, .place = PLACE(m), .help = h }
#define ONE_OF(n, c, m, h)                                                                                             \
    { .name = n, .kind = BSI_CLI_CHOICE, .argument = c, .choices = c, .place = PLACE(m), .help = h }
#define NUMBER(n, a, from, to, m, h)                                                                                   \
    { .name = n, .kind = BSI_CLI_NUMBER, .argument = a, .least = from, .most = to, .place = PLACE(m), .help = h }

#define STORE NEED("store", "DIR", store, "The folder of the store.")
#define FEED_ONE TEXT("feed", "F", feed, "The feed; may be left out while the store has only one.")
#define FEED_ALL TEXT("feed", "F", feed, "Only this feed; without it all of them.")
#define NOW                                                                                                            \
    TEXT("now", "TIME", now,                                                                                           \
         "The time of the run (RFC 3339, UTC) instead of the clock's, so that a run can be repeated to the byte.")

#define DELIMITER                                                                                                      \
    {.name = "delimiter",                                                                                              \
     .kind = BSI_CLI_CHAR,                                                                                             \
     .argument = "C",                                                                                                  \
     .place = PLACE(delimiter),                                                                                        \
     .help = "The character between fields; \\t or tab is a tabulator. Default: a tabulator for .tsv, else a comma."}
#define QUOTE                                                                                                          \
    {.name = "quote",                                                                                                  \
     .kind = BSI_CLI_CHAR,                                                                                             \
     .argument = "C",                                                                                                  \
     .place = PLACE(quote),                                                                                            \
     .help = "The character around fields that hold delimiters or line ends. Default: \"."}
#define QUOTES                                                                                                         \
    ONE_OF("quotes", "strict|lenient", quotes,                                                                         \
           "What a quote inside an unquoted field is (12\" monitor): strict keeps the record back as an exception, "   \
           "lenient takes it as data. Default: strict.")
#define WORKERS NUMBER("workers", "N", 1, 1024, workers, "Threads that work. Default: the usable cores.")
#define BLOCK_RECORDS                                                                                                  \
    NUMBER("block-records", "N", 1, 65536, block_records, "Records that a block aims at. Default: what the feed was loaded with; 16 for a new one.")
#define IO ONE_OF("io", "auto|uring|pread", io, "How files are read. Default: auto.")
#define ISA ONE_OF("isa", "auto|avx512|avx2|scalar", isa, "Which machine instructions are used. Default: auto.")

#define EXIT(n) (1u << (n))
#define EXITS_READ (EXIT(0) | EXIT(2) | EXIT(7) | EXIT(9))
#define EXITS_WRITE (EXITS_READ | EXIT(8))

const char *const bsi_cli_set_titles[BSI_CLI_OPTION_SETS] = {"Options", "Reading options", "Generic options"};

const char *const bsi_cli_exit_words[BSI_CLI_EXIT_COUNT] = {
    "done",
    "differences found (diff, diff-generations), or no such record (get)",
    "usage or configuration",
    "snapshot refused, nothing changed",
    "done, with exceptions open",
    "held: an approval or evidence of completeness is needed",
    "target unresolved",
    "integrity fault: the store may be damaged",
    "another run holds the store",
    "out of disk or memory",
};

/* ---- option sets ---- */

static const bsi_cli_option generic[] = {
    FLAG("json", json, "Answers for machines: one JSON object a line, and errors as such an object on stdout."),
    {.name = "quiet",
     .letter = 'q',
     .kind = BSI_CLI_FLAG,
     .place = PLACE(quiet),
     .help = "No progress, notes or summaries on stderr; errors are still told."},
    {.name = "output",
     .letter = 'o',
     .kind = BSI_CLI_TEXT,
     .argument = "FILE",
     .place = PLACE(output),
     .help = "Writes the product to FILE, which appears or is replaced only when the command is done; a run that fails "
             "or is interrupted leaves it as it was. A new file is readable by its owner only; - is stdout."},
    {.name = "exit-zero-on",
     .kind = BSI_CLI_CODES,
     .argument = "N[,N]",
     .place = PLACE(zero_codes),
     .help = "Exits with 0 instead of these codes, e.g. 4 for schedulers that take any other number as a failure."},
    {.name = "help", .letter = 'h', .kind = BSI_CLI_FLAG, .place = PLACE(help), .help = "Shows this text and exits."},
    END};

static const bsi_cli_option reading[] = {
    DELIMITER,
    QUOTE,
    QUOTES,
    TEXT("encoding", "NAME", encoding, "The encoding of the snapshot. Default: UTF-8."),
    LIST("nulls", "A,B", nulls, "Texts that stand for \"no value\", e.g. NULL,N/A. Default: none."),
    TEXT("trailer", "REGEX", trailer,
         "The last line matches this and is no record, or the file was cut short; its first group, if there is one, is the "
         "number of records."),
    WORKERS,
    {.name = "memory",
     .kind = BSI_CLI_BYTES,
     .argument = "SIZE",
     .place = PLACE(memory_bytes),
     .help = "Memory to stay below, e.g. 256MB, 1G, 512MiB. Default: 256MB."},
    TEXT("tmp", "DIR", tmp, "Folder for what does not fit into memory. Default: the store's, else $TMPDIR or /tmp."),
    BLOCK_RECORDS,
    {.name = "tiers",
     .kind = BSI_CLI_CHOICES,
     .argument = "LIST",
     .choices = "block|sequence|key|none",
     .place = PLACE(tiers),
     .help = "The ways to find changes that may be used, from block,sequence,key; or none. The result is the same."},
    IO,
    ISA,
    FLAG("verify-pack", verify_pack,
         "Decompresses all of a file that pack wrote, and checks it, instead of believing its fingerprints."),
    NOW,
    END};

/* ---- snapshots without a store ---- */

static const bsi_cli_option diff_options[] = {
    LIST("key", "A,B", key,
         "The columns that tell one record from another. Without it keys are proposed, with the number of duplicates "
         "that each would have, and the command exits with 2."),
    LIST("ignore", "C,D", ignore, "Columns that do not count and are in no output; they may be in one file only."),
    ONE_OF("format", "ndjson|csv|summary", format, "The form of the changes. Default: ndjson."), END};
static const bsi_cli_example diff_examples[] = {
    {"What changed between two exports of a bill of material:",
     "bomsync diff monday.csv tuesday.csv --key parent,plant,position"},
    {"Only the numbers, without the column that holds the time of the export:",
     "bomsync diff old.csv new.csv --key id --ignore exported_at --format summary"},
    {"The changes as a file, for apply:", "bomsync diff old.csv new.csv --key id -o delta.ndjson"},
    END};

static const bsi_cli_example apply_examples[] = {
    {"Makes the new file from the old one:", "bomsync apply old.csv delta.ndjson -o new.csv"},
    {"Several deltas, in order:", "bomsync apply base.csv 2.ndjson 3.ndjson.zst > now.csv"},
    END};

static const bsi_cli_option pack_options[] = {
    NUMBER("level", "N", 1, 19, level, "How hard zstd tries: larger is smaller and slower. Default: 3."),
    FLAG("force", force, "Replaces the file of -o if there is one."),
    DELIMITER,
    QUOTE,
    QUOTES,
    TEXT("encoding", "NAME", encoding, "The encoding of the snapshot. Default: UTF-8. The pack is UTF-8."),
    BLOCK_RECORDS,
    WORKERS,
    IO,
    ISA,
    END};
static const bsi_cli_example pack_examples[] = {
    {"Packs an export, and syncs the pack:",
     "bomsync pack bom.csv -o bom.csv.zst && bomsync sync --store S --complete bom.csv.zst"},
    {"From another compression, and smaller:", "bomsync pack bom.csv.gz --level 9 -o bom.csv.zst"},
    {"What is in it:", "zstd -dc bom.csv.zst | head"},
    END};

static const bsi_cli_option gen_options[] = {
    NEED("out", "DIR", out, "The folder for the files; it is made if it is not there."),
    ONE_OF("preset", "S|M|L", preset, "A scenario of known size; the options below change parts of it."),
    NUMBER("lines", "N", 1, INT64_MAX, lines, "Lines of the bill of material."),
    NUMBER("plants", "N", 1, 100000, plants, "Plants."),
    NUMBER("depth", "N", 1, 100000, depth, "Levels of the bill of material."),
    TEXT("change", "MIX", change,
         "What changes from one snapshot to the next: a letter a to h with an optional rate, b=0.1; several, c,c,b, "
         "make "
         "several snapshots. Without it there is one snapshot."),
    FLAG("cluster", cluster, "Changes stand together, as engineering changes do, instead of anywhere."),
    NUMBER("seed", "N", 0, INT64_MAX, seed, "The same seed gives the same files. Default: 0."),
    NUMBER("row-bytes", "N", 1, 1000000, row_bytes, "Bytes of a row, filled up with a description."),
    ONE_OF("key-position", "first|middle|last", key_position, "Where the key columns stand. Default: first."),
    ONE_OF(
        "quoting", "minimal|all|inch|newlines", quoting,
        "Quotes only where needed, around all fields, bare inch marks, or line ends inside fields. Default: minimal."),
    ONE_OF("format", "csv|tsv", format, "Default: csv."),
    ONE_OF("compress", "zstd|zstd-frames|gzip", compress, "Compresses the files; zstd-frames makes many frames."),
    TEXT("entities", "A,B", entities, "Only these entities, e.g. bom_line. Default: all."),
    END};
static const bsi_cli_example gen_examples[] = {
    {"A small scenario with one snapshot after an engineering change:",
     "bomsync gen --out data --preset S --change c=1 --cluster"},
    {"Ten million BOM lines alone:", "bomsync gen --out data --lines 10000000 --entities bom_line --seed 7"},
    END};

static const bsi_cli_option bench_options[] = {
    {.name = "key",
     .kind = BSI_CLI_LIST,
     .required = true,
     .argument = "A,B",
     .place = PLACE(key),
     .help = "The columns that tell one record from another."},
    TEXT("partition", "COLUMN", partition, "The key column that names the business unit, normally the plant."),
    NUMBER("runs", "N", 1, 1000, runs, "Timed runs of each phase, after one that warms. Default: 3."),
    END};
static const bsi_cli_example bench_examples[] = {
    {"What this machine makes of an export, and of the next one:",
     "bomsync bench monday.csv tuesday.csv --key parent,plant,position --partition plant"},
    {"One worker, on the disk that the store will stand on, for a script:",
     "bomsync bench bom.csv --key id --workers 1 --tmp /srv/bomsync --json"},
    {"A made-up landscape:",
     "bomsync gen --out data --lines 1000000 --entities bom_line --change b=0.1 && bomsync bench "
     "data/000/bom_line.csv data/001/bom_line.csv --key plant,parent,usage,alternative,line"},
    END};

/* ---- making generations ---- */

static const bsi_cli_option init_options[] = {
    STORE,
    NUMBER("shards", "P", 1, 256, shards,
           "Parts that are written side by side; fixed for the store's life. Default: 8."),
    END};
static const bsi_cli_example init_examples[] = {{"A new store:", "bomsync init --store /srv/bomsync/plm"}, END};

static const bsi_cli_option sync_options[] = {
    STORE,
    TEXT("feed", "F", feed, "The feed that the snapshot belongs to. Default: default."),
    LIST("key", "A,B", key,
         "The columns that tell one record from another. Given at the first sync of a feed and kept with it; a name "
         "that "
         "holds a comma is quoted as in CSV: --key '\"a,b\",c'."),
    TEXT("partition", "COLUMN", partition,
         "The key column that names the business unit, normally the plant. Kept with the feed."),
    LIST("ignore", "C,D", ignore, "Columns that do not count and are in no output. Kept with the feed."),
    FLAG("complete", complete, "Evidence: you vouch that the snapshot is complete. It is written to the journal."),
    NUMBER("expect-records", "N", 0, INT64_MAX, expect_records, "Evidence: the snapshot must have N records."),
    TEXT("control", "FILE", control, "Evidence: a control file with names, bytes, records or digests of the files."),
    TEXT("scope", "partition=A,B", scope,
         "The partitions that the snapshot speaks for; only there may absence mean deletion."),
    ONE_OF("mode", "full|upsert", mode, "upsert: the snapshot holds only records to create or update. Default: full."),
    FLAG("baseline", baseline, "The targets have this already: makes a generation without chunks."),
    NUMBER("sequence", "N", 0, INT64_MAX, sequence,
           "The number of the snapshot at its source; an older one is refused."),
    TEXT("as-of", "TIME", as_of, "The effective time of the snapshot (RFC 3339, UTC); an older one is refused."),
    FLAG("dry-run", dry_run, "Says what would happen, with the exit code of the real run, and changes nothing."),
    FLAG("explain", explain, "Tells why blocks were skipped or read."),
    ONE_OF("codec", "auto|symbols|zstd", codec, "How stored records are packed; no output depends on it. Default: auto."),
    NUMBER("wait", "SECONDS", 0, 1000000, wait_seconds, "Waits so long for another run on the store. Default: 0."),
    END};
static const bsi_cli_example sync_examples[] = {
    {"The first snapshot of a feed fixes its key and partition:",
     "bomsync sync --store S --feed bom --key parent,plant,position --partition plant --complete bom.csv"},
    {"Each night after that:", "bomsync sync --store S --feed bom --control bom.ctl bom.csv"},
    {"Two plants of many, zstd and standard input among the files:",
     "zstd -dc 2000.csv.zst | bomsync sync --store S --scope partition=1000,2000 --complete 1000.csv -"},
    {"What would happen:", "bomsync sync --store S --dry-run --json bom.csv"},
    END};

static const bsi_cli_option decision_options[] = {STORE, NEED("by", "WHO", by, "Who decides; written to the journal."),
                                                  NEED("why", "TEXT", why, "The reason; written to the journal."), NOW,
                                                  END};
static const bsi_cli_example approve_examples[] = {
    {"Publishes the deletes that wait:",
     "bomsync approve --store S 4f1c...e9 --by m.weber --why \"plant 2000 was closed\""},
    END};
static const bsi_cli_example decline_examples[] = {
    {"Keeps what is published:", "bomsync decline --store S 4f1c...e9 --by m.weber --why \"export was cut\""}, END};

static const bsi_cli_option revert_options[] = {STORE, FEED_ONE, NOW, END};
static const bsi_cli_example revert_examples[] = {
    {"Makes the state of generation 41 again:", "bomsync revert --store S 41"}, END};

/* ---- reading a store ---- */

static const bsi_cli_option store_only[] = {STORE, END};
static const bsi_cli_option store_feed_one[] = {STORE, FEED_ONE, END};
static const bsi_cli_option store_feed_all[] = {STORE, FEED_ALL, END};
static const bsi_cli_option at_generation[] = {
    STORE, FEED_ONE, NUMBER("generation", "G", 0, INT64_MAX, generation, "As of generation G. Default: the newest."),
    END};
static const bsi_cli_option export_options[] = {
    STORE, FEED_ONE, NUMBER("generation", "G", 0, INT64_MAX, generation, "As of generation G. Default: the newest."),
    ONE_OF("as", "published|source", as,
           "published: after rules and holds. source: as the last accepted snapshot says. Default: published."),
    END};
static const bsi_cli_example export_examples[] = {
    {"The state now:", "bomsync export --store S --feed bom -o bom.csv"},
    {"The state of an earlier generation:", "bomsync export --store S --feed bom --generation 12 > then.csv"},
    END};
static const bsi_cli_example log_examples[] = {
    {"The generations of one feed, for machines:", "bomsync log --store S --feed bom --json"}, END};
static const bsi_cli_example show_examples[] = {{"Generation 12 in numbers:", "bomsync show --store S 12"},
                                                {"The newest, for machines:", "bomsync show --store S --json"},
                                                END};
static const bsi_cli_example cat_examples[] = {
    {"All deletes of generation 12:", "bomsync cat --store S 12 | grep '\"op\":\"d\"'"}, END};
static const bsi_cli_example between_examples[] = {
    {"What changed from generation 3 to 9:", "bomsync diff-generations --store S 3 9"}, END};
static const bsi_cli_example get_examples[] = {
    {"One record now:", "bomsync get --store S ASM-1,1000,0010"},
    {"A key value that holds a comma, and one that begins with a dash:", "bomsync get --store S -- '\"A,1\",-7'"},
    END};
static const bsi_cli_example history_examples[] = {
    {"One record through time:", "bomsync history --store S ASM-1,1000,0010"}, END};
static const bsi_cli_example exceptions_examples[] = {
    {"What is open in one feed:", "bomsync exceptions --store S --feed bom"},
    {"As CSV for a spreadsheet:", "bomsync exceptions export --store S -o open.csv"},
    END};
static const bsi_cli_example holds_examples[] = {{"What waits, with its digests:", "bomsync holds --store S --json"},
                                                 END};
static const bsi_cli_example audit_examples[] = {
    {"The journal, kept elsewhere:", "bomsync audit --store S -o journal.ndjson"}, END};
static const bsi_cli_example stats_examples[] = {{"Figures of the last run:", "bomsync stats --store S --json"}, END};
static const bsi_cli_example status_examples[] = {{"One screen of health:", "bomsync status --store S"}, END};

/* ---- keeping a store ---- */

static const bsi_cli_option verify_options[] = {
    STORE,
    FLAG("repair", repair,
         "Drops caches that are damaged; they are made anew. Writes chunks of the outbox that are missing or damaged again, "
         "where that gives the same bytes. What the store alone knows is never touched."),
    END};
static const bsi_cli_example verify_examples[] = {{"Reads and checks everything:", "bomsync verify --store S"}, END};
static const bsi_cli_option backup_options[] = {
    STORE, TEXT("to", "TO", to, "The folder of the copy, instead of the argument TO; it must not exist."), END};
static const bsi_cli_example backup_examples[] = {
    {"A copy while the store is in use:", "bomsync backup --store S /backup/plm-monday"}, END};
static const bsi_cli_option restore_options[] = {NEED("store", "DIR", store, "The store to make; it must not exist."),
                                                 END};
static const bsi_cli_example restore_examples[] = {
    {"A store from its copy:", "bomsync restore /backup/plm-monday --store S"}, END};
static const bsi_cli_option gc_options[] = {STORE,
                                            {.name = "keep",
                                             .kind = BSI_CLI_NUMBER,
                                             .required = true,
                                             .argument = "N",
                                             .least = 1,
                                             .most = INT64_MAX,
                                             .place = PLACE(keep),
                                             .help = "Generations to keep, the newest N."},
                                            END};
static const bsi_cli_example gc_examples[] = {{"Keeps a month of nights:", "bomsync gc --store S --keep 31"}, END};
static const bsi_cli_option doctor_options[] = {
    TEXT("store", "DIR", store, "Looks at the place of this store as well."), END};
static const bsi_cli_example doctor_examples[] = {{"What this machine offers:", "bomsync doctor"}, END};

static const bsi_cli_option help_options[] = {
    FLAG("man", man, "Prints a man page (roff) instead, for COMMAND or for the program."),
    {.name = "completion",
     .kind = BSI_CLI_CHOICE,
     .argument = "bash|zsh|fish",
     .choices = "bash|zsh|fish",
     .place = PLACE(completion),
     .help = "Prints the completion script for that shell."},
    END};
static const bsi_cli_example help_examples[] = {
    {"About one command:", "bomsync help sync"},
    {"Completion in bash, for this session:", "eval \"$(bomsync help --completion bash)\""},
    {"A man page without installing it:", "bomsync help --man sync | man -l -"},
    END};
static const bsi_cli_option no_options[] = {END};
static const bsi_cli_example no_examples[] = {END};

/* ---- texts ---- */

static const char diff_text[] =
    "Compares two snapshots without a store. Each line of the product is one change: \"op\" is c, u or d, \"key\" "
    "names the "
    "record, \"before\" and \"after\" hold the values that differ. A summary goes to stderr.\n\n"
    "Order of records and columns, quoting, compression and line ends make no difference. A key that one file holds "
    "twice "
    "with different content is left out on both sides and reported (exit 4). One of the files may be - (stdin).";
static const char apply_text[] = "Prints STATE with the changes of the DELTAs applied, in the form of export. A DELTA "
                                 "is NDJSON of diff or cat, plain or "
                                 "zstd. A change that does not fit STATE ends the command with 3.";
static const char pack_text[] =
    "Writes SNAPSHOT as zstd frames that end where records end, followed by the fingerprints of its blocks. It is a zstd "
    "file like any other: zstd -d gives SNAPSHOT back (in UTF-8), and every command that reads snapshots reads it. A sync "
    "with the same delimiter, quote and --block-records compares the fingerprints with the store and decompresses only "
    "what changed. The same SNAPSHOT gives the same bytes, for any number of workers.\n\n"
    "A pack holds one file: a snapshot of several files is packed file by file, since its files may have different headers "
    "and are compared one by one. - is stdin. What sync would refuse is refused (exit 3), and so is a record above 16 "
    "MB.\n\n"
    "A sync believes the fingerprints of a pack as they were written: take packs from your own pack command only, or sync "
    "with --verify-pack. A pack that was cut off or damaged on its way is refused or read as an ordinary zstd file.";
static const char gen_text[] = "Writes snapshots of made-up manufacturing master data: items, multi-level bills of "
                               "material, plants, suppliers. The "
                               "same options and seed give the same bytes on any machine.";
static const char bench_text[] =
    "Measures on your own files, in a temporary store that is removed at the end: read (plain reading, which the others "
    "are compared with), lines (counting line ends, by one thread), cut (blocks and fingerprints), first (a first load "
    "as a baseline), unchanged (the same snapshot again), export; with a SECOND snapshot also changed (its sync) and "
    "diff (of both files).\n\n"
    "Each phase runs once to warm, then as often as --runs says. The table has seconds (median, least, most), the rate "
    "in bytes and records, the ratio to plain reading of as many bytes, the bytes of the store on disk and their ratio "
    "to the file, and the peak of private memory. Bytes are those of the file, of export those of its product; records "
    "of lines are line ends. --json has one object a phase, with the stages of a sync.\n\n"
    "Files are read many times, so standard input cannot be one. The temporary store takes about as much space as the "
    "snapshots; a run that is killed leaves its folder, bomsync-bench-*, behind.";
static const char init_text[] = "Makes an empty store: generation 0. The folder must not exist or be empty.";
static const char sync_text[] =
    "Reads a complete snapshot, finds what changed since the last accepted one, checks it, and makes one new "
    "generation or "
    "none. Several files, globs and folders are one snapshot; - is stdin. The chunks stand in "
    "DIR/outbox/<generation>/.\n\n"
    "A snapshot that may be incomplete never deletes. Without evidence of completeness (--complete, --control, "
    "--expect-records or --trailer) creates and updates go on and deletes are held: exit 5, and approve "
    "with "
    "the digest that is printed publishes them. A snapshot without records, with over a tenth fewer records, or with "
    "over half "
    "of them updated is held as a whole.\n\n"
    "The same snapshot twice makes no second generation. Records that only stand in another order are no change, and are not "
    "written: a snapshot whose order differs each time costs some ten times as much as one that stands as the last one did. Where the "
    "new order stays, the third snapshot in it (of 200,000 records or more) puts the store into it, which takes longer once; from then on it "
    "costs what it did.";
static const char export_text[] = "Prints the state of a feed as CSV: a header, then one line a key, sorted by key. "
                                  "The order of the columns is that of "
                                  "the feed's first snapshot. All cores sort it; what does not fit into 256 MB waits in a "
                                  "file without a name in $TMPDIR or /tmp, which takes somewhat more room than the output.";
static const char log_text[] = "Lists the generations, oldest first.";
static const char show_text[] =
    "Shows one generation in numbers: by feed and partition, with its chunks and files. Without G the newest.";
static const char cat_text[] =
    "Prints the changes of one generation in the order of sending, one JSON object a line. Without G the newest.";
static const char between_text[] = "Prints the changes that lead from generation G to generation H, which may be the "
                                   "older one. Exits with 1 if there are any.";
static const char get_text[] = "Prints one record. KEY is the key values in key order, as one CSV record. If there is "
                               "no such record nothing is printed "
                               "and the exit code is 1.";
static const char history_text[] = "Prints every change of one record, oldest first, with its generation. KEY is the "
                                   "key values in key order, as one CSV record.";
static const char revert_text[] = "Makes a new generation whose state equals that of generation G. It passes no guard "
                                  "and pins nothing: the next snapshot "
                                  "decides again.";
static const char exceptions_text[] = "Lists the records that were kept back and are still open, with rule, place and "
                                      "value. With export the list is CSV in "
                                      "which cells that a spreadsheet would take as a formula are made harmless.";
static const char holds_text[] =
    "Lists the changes that wait for a decision, with the digest that approve and decline take.";
static const char approve_text[] = "Publishes held changes from the store as a generation of its own. When a whole "
                                   "snapshot is held, lets the next sync of "
                                   "the same snapshot on the same state through, once.";
static const char decline_text[] = "Records that held changes are not wanted; what is published stays.";
static const char audit_text[] =
    "Prints the journal, one JSON object a line. Each entry holds the digest of the one before it.";
static const char verify_text[] =
    "Reads the whole store and checks every checksum, digest and total, and the chunks in the outbox. Exits with 7 if "
    "anything is wrong.";
static const char backup_text[] = "Copies the store as it stands at one generation; runs may go on meanwhile.";
static const char restore_text[] = "Makes a store from a copy that backup made. The new store has an id of its own, so "
                                   "that its changes are not taken for "
                                   "those of the old one.";
static const char gc_text[] =
    "Removes what generations before the newest N alone need. A file of the store of which a third is free then gives the space back to "
    "the disk; else what is written next takes it.\n\n"
    "A sync writes what changed and nothing else, so after some hundred of them most records are read from two places. Where "
    "a quarter of the blocks are such, or of the space is dead, gc writes them anew, side by side: the next sync is as fast as "
    "the first ones were. No record and no generation changes.";
static const char stats_text[] =
    "Prints the figures of the last run: blocks read and skipped, tiers, seconds by stage, bytes, memory, and which way "
    "the run took and why.\n\n"
    "The figures are a part of what the run commits: the seconds of \"commit\" are those up to that moment (sync "
    "--explain prints all of them). memory_peak is the private memory in use at the end of the stage that had the most: "
    "mapped pages of the store and of files belong to the system's cache and are not counted.";
static const char status_text[] =
    "Shows the health of a store on one screen: feeds, last generation, what is held and open, space.";
static const char doctor_text[] =
    "Checks what this machine offers: cores, instructions, io_uring, memory, temporary space.";
static const char help_text[] = "Explains the program, or COMMAND.";
static const char version_text[] = "Prints the version.";

/* ---- the table ---- */

#define COMMAND(n, s, words, from, to, own, read)                                                                      \
    .name = n, .summary = s, .synopsis = words, .words_least = from, .words_most = to, .sets = {own, read, generic}

const bsi_cli_command bsi_cli_commands[] = {
    {COMMAND("diff", "compare two snapshots without a store", "OLD NEW", 2, 2, diff_options, reading),
     .text = diff_text, .examples = diff_examples, .exits = EXITS_READ | EXIT(1) | EXIT(3) | EXIT(4),
     .flags = BSI_CLI_ANSWERS | BSI_CLI_NO_STORE, .run = bsi_cli_diff},
    {COMMAND("apply", "apply changes to a snapshot", "STATE DELTA...", 2, SIZE_MAX, no_options, reading),
     .text = apply_text, .examples = apply_examples, .exits = EXITS_READ | EXIT(3), .flags = BSI_CLI_NO_STORE,
     .run = bsi_cli_apply},
    {COMMAND("init", "make a store", "", 0, 0, init_options, NULL), .text = init_text, .examples = init_examples,
     .exits = EXITS_WRITE, .flags = BSI_CLI_NO_PRODUCT, .run = bsi_cli_init},
    {COMMAND("sync", "make a new generation from a snapshot", "SNAPSHOT...", 1, SIZE_MAX, sync_options, reading),
     .text = sync_text, .examples = sync_examples, .exits = EXITS_WRITE | EXIT(3) | EXIT(4) | EXIT(5),
     .run = bsi_cli_sync},
    {COMMAND("export", "print the state as CSV", "", 0, 0, export_options, NULL), .text = export_text,
     .examples = export_examples, .exits = EXITS_READ, .run = bsi_cli_export},
    {COMMAND("log", "list the generations", "", 0, 0, store_feed_all, NULL), .text = log_text, .examples = log_examples,
     .exits = EXITS_READ, .run = bsi_cli_log},
    {COMMAND("show", "show one generation in numbers", "[G]", 0, 1, store_only, NULL), .text = show_text,
     .examples = show_examples, .exits = EXITS_READ, .run = bsi_cli_show},
    {COMMAND("cat", "print the changes of one generation", "[G]", 0, 1, store_only, NULL), .text = cat_text,
     .examples = cat_examples, .exits = EXITS_READ, .run = bsi_cli_cat},
    {COMMAND("get", "print one record", "KEY", 1, 1, at_generation, NULL), .text = get_text, .examples = get_examples,
     .exits = EXITS_READ | EXIT(1), .flags = BSI_CLI_ANSWERS, .run = bsi_cli_get},
    {COMMAND("history", "print one record through time", "KEY", 1, 1, store_feed_one, NULL), .text = history_text,
     .examples = history_examples, .exits = EXITS_READ, .run = bsi_cli_history},
    {COMMAND("diff-generations", "print the changes between two generations", "G H", 2, 2, store_feed_one, NULL),
     .text = between_text, .examples = between_examples, .exits = EXITS_READ | EXIT(1), .flags = BSI_CLI_ANSWERS,
     .run = bsi_cli_diff_generations},
    {COMMAND("revert", "make the state of an earlier generation again", "G", 1, 1, revert_options, NULL),
     .text = revert_text, .examples = revert_examples, .exits = EXITS_WRITE | EXIT(4) | EXIT(5), .run = bsi_cli_revert},
    {COMMAND("exceptions", "list the records that were kept back", "[export]", 0, 1, store_feed_all, NULL),
     .text = exceptions_text, .examples = exceptions_examples, .exits = EXITS_READ, .run = bsi_cli_exceptions},
    {COMMAND("holds", "list the changes that wait for a decision", "", 0, 0, store_feed_all, NULL), .text = holds_text,
     .examples = holds_examples, .exits = EXITS_READ, .run = bsi_cli_holds},
    {COMMAND("approve", "publish held changes", "DIGEST", 1, 1, decision_options, NULL), .text = approve_text,
     .examples = approve_examples, .exits = EXITS_WRITE | EXIT(4) | EXIT(5), .run = bsi_cli_approve},
    {COMMAND("decline", "turn held changes down", "DIGEST", 1, 1, decision_options, NULL), .text = decline_text,
     .examples = decline_examples, .exits = EXITS_WRITE | EXIT(4) | EXIT(5), .run = bsi_cli_decline},
    {COMMAND("audit", "print the journal", "", 0, 0, store_only, NULL), .text = audit_text, .examples = audit_examples,
     .exits = EXITS_READ, .run = bsi_cli_audit},
    {COMMAND("verify", "check the whole store", "", 0, 0, verify_options, NULL), .text = verify_text,
     .examples = verify_examples, .exits = EXITS_WRITE, .flags = BSI_CLI_FAULTS, .run = bsi_cli_verify},
    {COMMAND("backup", "copy a store", "[TO]", 0, 1, backup_options, NULL), .text = backup_text,
     .examples = backup_examples, .exits = EXITS_READ, .flags = BSI_CLI_NO_PRODUCT, .run = bsi_cli_backup},
    {COMMAND("restore", "make a store from a copy", "FROM", 1, 1, restore_options, NULL), .text = restore_text,
     .examples = restore_examples, .exits = EXITS_WRITE, .flags = BSI_CLI_NO_PRODUCT, .run = bsi_cli_restore},
    {COMMAND("gc", "remove old generations", "", 0, 0, gc_options, NULL), .text = gc_text, .examples = gc_examples,
     .exits = EXITS_WRITE, .flags = BSI_CLI_NO_PRODUCT, .run = bsi_cli_gc},
    {COMMAND("stats", "print the figures of the last run", "", 0, 0, store_only, NULL), .text = stats_text,
     .examples = stats_examples, .exits = EXITS_READ, .run = bsi_cli_stats},
    {COMMAND("status", "show the health of a store", "", 0, 0, store_only, NULL), .text = status_text,
     .examples = status_examples, .exits = EXITS_READ, .run = bsi_cli_status},
    {COMMAND("doctor", "show what this machine offers", "", 0, 0, doctor_options, NULL), .text = doctor_text,
     .examples = doctor_examples, .exits = EXITS_READ, .run = bsi_cli_doctor},
    {COMMAND("pack", "write a snapshot as zstd frames with fingerprints", "SNAPSHOT", 1, 1, pack_options, NULL),
     .text = pack_text, .examples = pack_examples, .exits = EXIT(0) | EXIT(2) | EXIT(3) | EXIT(9), .flags = BSI_CLI_NO_STORE,
     .run = bsi_cli_pack},
    {COMMAND("gen", "write made-up snapshots", "", 0, 0, gen_options, NULL), .text = gen_text, .examples = gen_examples,
     .exits = EXIT(0) | EXIT(2) | EXIT(9), .flags = BSI_CLI_NO_PRODUCT | BSI_CLI_NO_STORE, .run = bsi_cli_gen},
    {COMMAND("bench", "measure phases on your own files", "SNAPSHOT [SECOND]", 1, 2, bench_options, reading),
     .text = bench_text, .examples = bench_examples, .exits = EXITS_READ | EXIT(3), .flags = BSI_CLI_NO_STORE,
     .run = bsi_cli_bench},
    {COMMAND("help", "explain a command", "[COMMAND]", 0, 1, help_options, NULL), .text = help_text,
     .examples = help_examples, .exits = EXIT(0) | EXIT(2), .flags = BSI_CLI_PLAIN, .run = bsi_cli_help},
    {COMMAND("version", "print the version", "", 0, 0, no_options, NULL), .text = version_text, .examples = no_examples,
     .exits = EXIT(0) | EXIT(2), .flags = BSI_CLI_PLAIN, .run = bsi_cli_version},
};
const size_t bsi_cli_command_count = sizeof bsi_cli_commands / sizeof *bsi_cli_commands;
