/*
 * The writer of a tree stream: fills a directory with the files of an image layer. It is chrooted there, so that no name and no
 * link in the stream leads outside. Entries are applied as they arrive; file data is never kept.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tree.h"

#define ENTRY_HEADER 8
#define ENTRY_MAX (16u << 20) /* of an entry that is not data */
#define LINGER_MS 30000

struct tree tree;
int tree_starting = -1;

const uint8_t *input_part(size_t *size)
{
  struct input *in = &tree.input;
  if (in->at == in->end) {
    ssize_t n;
    do
      n = read(in->fd, scratch, SCRATCH_SIZE);
    while (n < 0 && errno == EINTR);
    /* The end, or an error, which comes to the same: nobody is there to be told. */
    if (n <= 0)
      _exit(0);
    in->at = 0;
    in->end = (size_t)n;
  }
  const uint8_t *part = scratch + in->at;
  if (*size > in->end - in->at)
    *size = in->end - in->at;
  in->at += *size;
  return part;
}

void input_read(void *to, size_t size)
{
  for (size_t at = 0; at < size;) {
    size_t part = size - at;
    const uint8_t *data = input_part(&part);
    memcpy((uint8_t *)to + at, data, part);
    at += part;
  }
}

static void read_entry(size_t size)
{
  tree.entry.size = 0;
  while (tree.entry.size < size) {
    size_t part = size - tree.entry.size;
    const uint8_t *data = input_part(&part);
    buffer_append(&tree.entry, data, part);
  }
}

/* --- the stream ------------------------------------------------------------------------------------------------------- */

#define DECODED(name) tree_##name##_decode(tree.entry.data, tree.entry.size, &e.name)

static int apply(uint16_t type, bool *ended)
{
  union {
    struct tree_directory directory;
    struct tree_file file;
    struct tree_symlink symlink;
    struct tree_hardlink hardlink;
    struct tree_node node;
    struct tree_end end;
  } e;
  switch (type) {
  case TREE_DIRECTORY:
    if (DECODED(directory))
      return put_directory(&e.directory);
    break;
  case TREE_FILE:
    if (DECODED(file))
      return put_file(&e.file);
    break;
  case TREE_SYMLINK:
    if (DECODED(symlink))
      return put_symlink(&e.symlink);
    break;
  case TREE_HARDLINK:
    if (DECODED(hardlink))
      return put_hardlink(&e.hardlink);
    break;
  case TREE_NODE:
    if (DECODED(node))
      return put_node(&e.node);
    break;
  case TREE_END:
    *ended = true;
    if (DECODED(end))
      return put_end(&e.end);
    break;
  }
  return fail(&tree.report, EPROTO, "a tree entry of type %u that does not decode", type);
}

/* A hole's fields must not overwrite those of the file that it belongs to. */
static int read_hole(uint32_t size)
{
  uint8_t body[sizeof(uint64_t)];
  struct tree_hole hole;
  if (size != sizeof body)
    return fail(&tree.report, EPROTO, "a hole entry of %u bytes", size);
  input_read(body, sizeof body);
  return tree_hole_decode(body, sizeof body, &hole) ? put_hole(&hole) : fail(&tree.report, EPROTO, "a hole entry");
}

static void follow_stream(void)
{
  bool ended = false;
  int result = 0;
  while (result == 0 && !ended) {
    struct { uint32_t size; uint16_t type, reserved; } header;
    input_read(&header, ENTRY_HEADER);
    if (header.reserved || (header.type != TREE_DATA && header.size > ENTRY_MAX)) {
      result = fail(&tree.report, EPROTO, "a tree entry of type %u with %u bytes", header.type, header.size);
    } else if (header.type == TREE_DATA) {
      result = put_data(header.size);
    } else if (header.type == TREE_HOLE) {
      result = read_hole(header.size);
    } else if (tree.file >= 0) {
      result = fail(&tree.report, EPROTO, "/%s lacks %llu bytes", tree.meta.path, (unsigned long long)tree.left);
    } else {
      read_entry(header.size);
      result = apply(header.type, &ended);
    }
  }
}

static void send_report(int connection, uint32_t id)
{
  struct buffer out = {0};
  report_encode(&tree.report, id, &out);
  for (size_t at = 0; at < out.size;) {
    ssize_t n = send(connection, out.data + at, out.size - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      _exit(0);
    at += (size_t)n;
  }
  buffer_free(&out);
}

/* Closing with unread input resets the connection, and the client might never see the report. */
static void linger(int connection)
{
  shutdown(connection, SHUT_WR);
  struct pollfd wait = {.fd = connection, .events = POLLIN};
  while (poll(&wait, 1, LINGER_MS) > 0 && read(connection, scratch, SCRATCH_SIZE) > 0)
    ;
}

void tree_main(int connection, uint32_t id, const char *path)
{
  tree.input.fd = connection;
  tree.file = -1;
  tree.report = (struct report){.order = NO_ORDER};
  umask(0);
  if (chroot(path) < 0)
    failed(&tree.report, "chroot %s", path);
  else if (chdir("/") < 0)
    failed(&tree.report, "chdir %s", path);
  send_report(connection, id);
  fd_close(&tree_starting);
  if (!tree.report.err) {
    follow_stream();
    send_report(connection, id);
  }
  if (tree.report.err)
    linger(connection);
  _exit(0);
}
