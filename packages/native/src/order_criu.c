/*
 * CRIU by its RPC (criu.org/RPC): protobuf messages over a SEQPACKET socket that it is started with. What the request says is
 * decided elsewhere; of what CRIU says only as much is read here as has to be acted upon.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"

#define SOCKET_FD 3   /* in CRIU */
#define OPENED_FD 100 /* the first path's descriptor, here and in CRIU: it finds ours by /proc/PID/fd */
#define OPENED_MAX 6
#define ABOVE 10      /* descriptors that CRIU must not find at a number of its own */

extern char **environ;

/* --- what it says: criu_resp of criu's rpc.proto --------------------------------------------------------------------------- */

enum { TYPE_NOTIFY = 6 };
enum { RESP_TYPE = 1, RESP_SUCCESS = 2, RESP_NOTIFY = 5, RESP_ERRNO = 7, RESP_ERRMSG = 9 };
enum { NOTIFY_SCRIPT = 1, NOTIFY_PID = 2 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct said {
  uint64_t type, success, number; /* number: its errno */
  char message[256], script[32];
  uint64_t pid;
};

static uint64_t varint(struct reader *r)
{
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (r->at == r->end)
      break;
    uint8_t byte = *r->at++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80))
      return value;
  }
  r->bad = true;
  return 0;
}

struct piece { uint64_t field, value; struct reader bytes; bool is_bytes; };

/* The next field; false at the end or where it is none. */
static bool next_piece(struct reader *r, struct piece *p)
{
  if (r->bad || r->at == r->end)
    return false;
  uint64_t key = varint(r), size = 0;
  *p = (struct piece){.field = key >> 3};
  switch (key & 7) {
  case WIRE_VARINT: p->value = varint(r); return !r->bad;
  case WIRE_FIXED64: size = 8; break;
  case WIRE_FIXED32: size = 4; break;
  case WIRE_BYTES: size = varint(r); p->is_bytes = true; break;
  default: r->bad = true;
  }
  if (r->bad || size > (uint64_t)(r->end - r->at)) {
    r->bad = true;
    return false;
  }
  p->bytes = (struct reader){.at = r->at, .end = r->at + size};
  r->at += size;
  return true;
}

static void copy_text(char *to, size_t room, struct reader from)
{
  size_t size = (size_t)(from.end - from.at);
  if (size >= room)
    size = room - 1;
  memcpy(to, from.at, size);
  while (size > 0 && to[size - 1] == '\n')
    size--;
  to[size] = 0;
}

static void read_notify(struct reader *r, struct said *said)
{
  struct piece p;
  while (next_piece(r, &p)) {
    if (p.field == NOTIFY_SCRIPT && p.is_bytes)
      copy_text(said->script, sizeof said->script, p.bytes);
    else if (p.field == NOTIFY_PID)
      said->pid = p.value;
  }
}

static bool read_said(const struct buffer *message, struct said *said)
{
  struct reader r = {.at = message->data, .end = message->data + message->size};
  struct piece p;
  *said = (struct said){0};
  while (next_piece(&r, &p)) {
    switch (p.field) {
    case RESP_TYPE: said->type = p.value; break;
    case RESP_SUCCESS: said->success = p.value; break;
    case RESP_ERRNO: said->number = p.value; break;
    case RESP_ERRMSG: copy_text(said->message, sizeof said->message, p.bytes); break;
    case RESP_NOTIFY: read_notify(&p.bytes, said); r.bad |= p.bytes.bad; break;
    }
  }
  return !r.bad;
}

/* --- starting it ----------------------------------------------------------------------------------------------------------- */

static void close_opened(void)
{
  for (int i = 0; i < OPENED_MAX; i++)
    close(OPENED_FD + i);
}

/* The socket must be made after this: what it is about to look up here it looks up in the process that made the socket. */
static int open_paths(struct run *run, struct strs paths)
{
  if (paths.count > OPENED_MAX)
    return fail(&run->report, EINVAL, "%u paths; %d at most", paths.count, OPENED_MAX);
  const char *path;
  for (int number = OPENED_FD; (path = strs_next(&paths)); number++) {
    if (fcntl(number, F_GETFD) >= 0)
      return fail(&run->report, EBUSY, "descriptor %d is in use", number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
      return failed(&run->report, "open %s", path);
    int result = dup3(fd, number, O_CLOEXEC);
    drop(fd);
    if (result < 0)
      return failed(&run->report, "dup3 %s", path);
  }
  return 0;
}

static void become(struct run *run, const struct order_criu *o, int socket_fd, int failure) __attribute__((noreturn));
static void become(struct run *run, const struct order_criu *o, int socket_fd, int failure)
{
  char **argv = vector(o->argv), **env = vector(o->env), number[8];
  if (!argv || !env || !(argv = realloc(argv, (o->argv.count + 2) * sizeof *argv)))
    _exit(70);
  snprintf(number, sizeof number, "%d", SOCKET_FD);
  argv[o->argv.count] = number;
  argv[o->argv.count + 1] = NULL;
  environ = env;
  if (!o->stdio)
    child_null_stdio();
  for (int i = 0; o->stdio && i < 3; i++)
    if (run->stdio[i] >= 0)
      dup2(run->stdio[i], i);
  int high = fcntl(socket_fd, F_DUPFD, ABOVE), last = fcntl(failure, F_DUPFD_CLOEXEC, ABOVE);
  int keep[2 + OPENED_MAX] = {SOCKET_FD, last};
  for (int i = 0; i < OPENED_MAX; i++) {
    keep[2 + i] = OPENED_FD + i;
    fcntl(OPENED_FD + i, F_SETFD, 0);
  }
  if (high >= 0 && last >= 0 && dup2(high, SOCKET_FD) == SOCKET_FD) {
    child_clean(NULL, keep, 2 + OPENED_MAX);
    execvp(argv[0], argv);
  }
  int err = errno;
  (void)!write(last, &err, sizeof err);
  _exit(127);
}

/* Should this process end, CRIU finds its socket closed at its next notification, and undoes what it has done: it is not killed. */
static int start(struct run *run, const struct order_criu *o)
{
  int pair[2], failure[2], err = 0;
  if (open_paths(run, o->open) < 0)
    return -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return failed(&run->report, "socketpair");
  run->criu_fd = pair[0];
  if (pipe2(failure, O_CLOEXEC) < 0) {
    drop(pair[1]);
    return failed(&run->report, "pipe");
  }
  run->criu = fork();
  if (run->criu == 0)
    become(run, o, pair[1], failure[1]);
  int forked = errno;
  drop(pair[1]);
  drop(failure[1]);
  ssize_t told = 0;
  if (run->criu > 0)
    do
      told = read(failure[0], &err, sizeof err);
    while (told < 0 && errno == EINTR);
  drop(failure[0]);
  struct strs argv = o->argv;
  if (run->criu < 0)
    return fail(&run->report, forked, "fork");
  return told == (ssize_t)sizeof err ? fail(&run->report, err, "exec %s", strs_next(&argv)) : 0;
}

/* --- talking --------------------------------------------------------------------------------------------------------------- */

/* 1 with a message, 0 where it has ended. */
static int receive(struct run *run, struct buffer *message, int *passed)
{
  for (;;) {
    struct pollfd wait = {.fd = run->criu_fd, .events = POLLIN};
    if (poll(&wait, 1, -1) < 0 && errno != EINTR)
      return failed(&run->report, "poll");
    ssize_t size = receive_message(run->criu_fd, message, passed);
    if (size > 0)
      return 1;
    if (size == 0 || (errno != EINTR && errno != EAGAIN))
      return 0;
  }
}

static int answer(struct run *run)
{
  /* criu_req: type NOTIFY, notify_success. */
  uint8_t reply[] = {0x08, TYPE_NOTIFY, 0x18, 1};
  reply[3] = !run->criu_deadline || now_ms() < run->criu_deadline;
  if (send(run->criu_fd, reply, sizeof reply, MSG_NOSIGNAL) != (ssize_t)sizeof reply)
    return failed(&run->report, "answer criu");
  return 0;
}

static int tell_restored(struct run *run, uint64_t pid)
{
  uint8_t message[5] = {SYNC_CHILD};
  uint32_t number = (uint32_t)pid;
  if (run->restored || run->sync_fd < 0 || !pid)
    return 0;
  run->restored = (pid_t)pid;
  memcpy(message + 1, &number, sizeof number);
  return sync_send(run, message, sizeof message) < 0 ? failed(&run->report, "tell the monitor") : 0;
}

static int tell_ready(struct run *run)
{
  if (!*run->criu_status)
    return 0;
  int fd = open(run->criu_status, O_WRONLY | O_CLOEXEC);
  bool ok = fd >= 0 && write_all(fd, "", 1);
  drop(fd);
  return ok ? 0 : failed(&run->report, "write to %s", run->criu_status);
}

static int heed(struct run *run, const struct said *said, int passed)
{
  if (!strcmp(said->script, "setup-namespaces") || !strcmp(said->script, "post-restore"))
    return tell_restored(run, said->pid);
  if (!strcmp(said->script, "orphan-pts-master"))
    return passed < 0 || run->sync_fd < 0 ? 0 : send_terminal(run, passed);
  if (!strcmp(said->script, "status-ready"))
    return tell_ready(run);
  return 0;
}

static int refused(struct run *run, const struct said *said)
{
  static const char *const types[] = {"EMPTY", "DUMP", "RESTORE", "CHECK", "PRE_DUMP", "PAGE_SERVER", "NOTIFY"};
  const char *type = said->type < sizeof types / sizeof *types ? types[said->type] : "?";
  if (run->criu_deadline && now_ms() >= run->criu_deadline)
    return fail(&run->report, ETIMEDOUT, "criu did not finish in time, and has undone what it did");
  return fail(&run->report, EIO, "criu failed: type %s errno %d%s%s", type, (int)said->number, *said->message ? ": " : "", said->message);
}

static int ended(struct run *run)
{
  int status = 0;
  while (waitpid(run->criu, &status, 0) < 0 && errno == EINTR)
    ;
  run->criu = 0;
  return WIFSIGNALED(status) ? fail(&run->report, EIO, "criu was killed by signal %d", WTERMSIG(status))
                             : fail(&run->report, EIO, "criu ended with status %d before it answered", WEXITSTATUS(status));
}

/* Its last answer ends the conversation; what is left of CRIU has only to wind up. */
static void finish(struct run *run)
{
  fd_close(&run->criu_fd);
  while (run->criu > 0 && waitpid(run->criu, NULL, 0) < 0 && errno == EINTR)
    ;
  run->criu = 0;
  close_opened();
}

/* Until the notification `until`, which stays unanswered, or to the end. */
static int converse(struct run *run, const char *until)
{
  for (;;) {
    struct buffer message = {0};
    struct said said = {0};
    int passed = -1, got = receive(run, &message, &passed);
    bool understood = got > 0 && read_said(&message, &said);
    buffer_free(&message);
    if (got < 0)
      return -1;
    if (got == 0)
      return ended(run);
    int result = !understood                  ? fail(&run->report, EPROTO, "criu said what nobody understands")
                 : !said.success              ? refused(run, &said)
                 : said.type == TYPE_NOTIFY   ? heed(run, &said, passed)
                                              : 0;
    drop(passed);
    if (result < 0)
      return -1;
    if (said.type != TYPE_NOTIFY) {
      finish(run);
      return *until ? fail(&run->report, EPROTO, "criu finished without %s", until) : 0;
    }
    if (*until && !strcmp(said.script, until))
      return 0;
    if (answer(run) < 0)
      return -1;
  }
}

/* What fails leaves nothing of CRIU: it undoes its work when the socket is closed, and is waited for. */
static int conclude(struct run *run, int result)
{
  if (result < 0)
    finish(run);
  return result;
}

int order_criu(struct run *run, const struct order_criu *o)
{
  if (run->stage != 0 || run->criu_fd >= 0)
    return fail(&run->report, EINVAL, "criu is for a stage, once at a time");
  if (o->argv.count == 0)
    return fail(&run->report, EINVAL, "argv is empty");
  run->criu_deadline = o->timeout_ms ? now_ms() + o->timeout_ms : 0;
  run->criu_status = o->status;
  int result = start(run, o);
  if (result == 0 && send(run->criu_fd, o->request.data, o->request.size, MSG_NOSIGNAL) != (ssize_t)o->request.size)
    result = failed(&run->report, "send criu its request");
  return conclude(run, result < 0 ? result : converse(run, o->until));
}

int order_criu_go_on(struct run *run, const struct order_criu_go_on *o)
{
  if (run->criu_fd < 0)
    return fail(&run->report, EINVAL, "criu waits for nothing");
  int result = answer(run);
  return conclude(run, result < 0 ? result : converse(run, o->until));
}
