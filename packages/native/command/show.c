/* state, list, ps: what is known of containers, as packages/runtime/src/verbs has it. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

#define NAME_ROOM 64
#define PASSWD_ROOM (1 << 16)
#define MIN_WIDTH 12
#define PADDING 3

/* A container with everything that is shown of it. */
struct shown {
  struct record record;
  enum status status;
  char owner[NAME_ROOM];
};

/* The user's name of /etc/passwd, or "#1000"; false for what is too unusual for this program. */
static bool user_name(uid_t uid, char *name)
{
  static char passwd[PASSWD_ROOM];
  char number[16];
  ssize_t size = read_small(AT_FDCWD, "/etc/passwd", passwd, sizeof passwd);
  if (size == PASSWD_ROOM - 1)
    return false;
  snprintf(number, sizeof number, ":%u:", uid);
  for (char *line = size < 0 ? NULL : passwd; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    char *end = strchr(line, '\n'), *first = strchr(line, ':'), *second = first ? strchr(first + 1, ':') : NULL;
    if (!second || (end && second > end) || strncmp(second, number, strlen(number)) != 0)
      continue;
    *first = 0;
    return (size_t)snprintf(name, NAME_ROOM, "%s", line) < NAME_ROOM;
  }
  snprintf(name, NAME_ROOM, uid == 0 ? "root" : "#%u", uid);
  return true;
}

static bool look_at(struct shown *s)
{
  struct stat st;
  return record_status(&s->record, &s->status) && fstat(s->record.directory, &st) == 0 && user_name(st.st_uid, s->owner);
}

static void put_field(const char *name, const char *value, const char *before)
{
  put(before);
  put_json(name);
  put(*before == '\n' || before[1] == '\n' ? ": " : ":");
  put_json(value);
}

/* As JSON.stringify, with an indentation of two or without any. */
static void put_container(const struct shown *s, bool pretty)
{
  const struct record *r = &s->record;
  const char *next = pretty ? ",\n  " : ",", *nested = pretty ? ",\n    " : ",";
  put("{");
  put_field("ociVersion", r->oci_version, pretty ? "\n  " : "");
  put_field("id", r->id, next);
  put(next);
  put(pretty ? "\"pid\": " : "\"pid\":");
  put_number(s->status == STOPPED ? 0 : (uint64_t)r->pid);
  put_field("status", status_name(s->status), next);
  put_field("bundle", r->bundle, next);
  put_field("rootfs", r->rootfs, next);
  put_field("created", r->created, next);
  const char *at = r->annotations;
  for (size_t i = 0; i < r->annotation_count; i++) {
    if (i == 0) {
      put(next);
      put(pretty ? "\"annotations\": {" : "\"annotations\":{");
    }
    put_field(at, next_string(at), i == 0 ? nested + 1 : nested);
    at = next_string(next_string(at));
  }
  if (r->annotation_count > 0)
    put(pretty ? "\n  }" : "}");
  put_field("owner", s->owner, next);
  put(pretty ? "\n}" : "}");
}

int verb_state(int root, char **argv, int argc)
{
  struct shown s;
  if (!only_container(&s.record, root, argv, argc))
    return TO_NODE;
  if (!look_at(&s))
    return TO_NODE;
  put_container(&s, true);
  return put_end();
}

/* --- list --------------------------------------------------------------------------------------------------------------------- */

#define COLUMNS 6

static void cells_of(const struct shown *s, const char **cells, char *pid)
{
  snprintf(pid, 16, "%d", s->status == STOPPED ? 0 : s->record.pid);
  const char *own[COLUMNS] = {s->record.id, pid, status_name(s->status), s->record.bundle, s->record.created, s->owner};
  memcpy(cells, own, sizeof own);
}

static void put_row(const char *const *cells, const size_t *widths)
{
  for (size_t column = 0; column < COLUMNS; column++) {
    put(cells[column]);
    if (column < COLUMNS - 1)
      for (size_t size = strlen(cells[column]); size < widths[column]; size++)
        put(" ");
  }
  put("\n");
}

static void put_table(const struct shown *all, size_t count)
{
  static const char *const heading[COLUMNS] = {"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"};
  size_t widths[COLUMNS];
  const char *cells[COLUMNS];
  char pid[16];
  for (size_t column = 0; column < COLUMNS; column++)
    widths[column] = MIN_WIDTH;
  for (size_t i = 0; i < count; i++) {
    cells_of(&all[i], cells, pid);
    for (size_t column = 0; column < COLUMNS; column++)
      if (strlen(cells[column]) + PADDING > widths[column])
        widths[column] = strlen(cells[column]) + PADDING;
  }
  put_row(heading, widths);
  for (size_t i = 0; i < count; i++) {
    cells_of(&all[i], cells, pid);
    put_row(cells, widths);
  }
}

static void put_list(const struct shown *all, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    put(i == 0 ? "[" : ",");
    put_container(&all[i], false);
  }
  put(count == 0 ? "null\n" : "]\n");
}

static int is_container(const struct dirent *entry)
{
  return (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) && entry->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* Widths are counted in characters, of which this program knows only those of one byte. */
static bool is_ascii(const char *text)
{
  for (; *text; text++)
    if ((unsigned char)*text >= 0x80)
      return false;
  return true;
}

int verb_list(int root, char **argv, int argc)
{
  struct flag flags[] = {{.name = "format", .alias = "f", .takes_value = true}, {.name = "quiet", .alias = "q"}};
  struct dirent **entries;
  if (root < 0 || parse_flags(flags, 2, argv, argc, false) != 0)
    return TO_NODE;
  const char *format = flags[0].value && *flags[0].value ? flags[0].value : "table";
  bool table = strcmp(format, "table") == 0, quiet = flag_set(&flags[1]);
  if (!table && strcmp(format, "json") != 0)
    return TO_NODE;
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", root);
  int count = scandir(path, &entries, is_container, by_bytes);
  struct shown *all = count < 0 ? NULL : calloc((size_t)count + 1, sizeof *all);
  if (!all)
    return TO_NODE;
  for (int i = 0; i < count; i++)
    if (!is_id(entries[i]->d_name) || !record_open(&all[i].record, root, entries[i]->d_name, NULL) || !look_at(&all[i]) ||
        (table && !is_ascii(all[i].record.bundle)))
      return TO_NODE; /* what is not like the others is reported, or left out */
  for (int i = 0; quiet && i < count; i++) {
    put(all[i].record.id);
    put("\n");
  }
  if (!quiet && table)
    put_table(all, (size_t)count);
  else if (!quiet)
    put_list(all, (size_t)count);
  return put_end();
}

/* --- ps ----------------------------------------------------------------------------------------------------------------------- */

int verb_ps(int root, char **argv, int argc)
{
  struct flag format = {.name = "format", .alias = "f", .takes_value = true};
  struct record r;
  struct pids pids;
  int arguments = parse_flags(&format, 1, argv, argc, true);
  /* A table is ps's own output. */
  if (arguments < 1 || !format.value || strcmp(format.value, "json") != 0 || !is_id(argv[0]) || !record_open(&r, root, argv[0], NULL))
    return TO_NODE;
  if (!processes_of(&r, &pids))
    return TO_NODE;
  for (size_t i = 0; i < pids.count; i++) {
    put(i == 0 ? "[" : ",");
    put_number((uint64_t)pids.list[i]);
  }
  put(pids.count == 0 ? "null\n" : "]\n");
  return put_end();
}
