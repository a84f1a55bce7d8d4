/* enable-cuda-compat: the container's own libcuda before the host's, where it says, or its version tells, that it should be. */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hook.h"

#define LIBRARY "libcuda.so."
#define NOTE_SECTION ".note.cuda.fwd_compatibility"
#define NOTE_OWNER "NVIDIA Corporation"
#define MAX_SECTION (1u << 20)
#define NOTE_HEADER 12

struct version { unsigned long part[3]; bool known; };

static struct version parse_version(const char *text)
{
  struct version v = {.known = *text != 0};
  char *end = (char *)(uintptr_t)text;
  for (int i = 0; i < 3 && v.known; i++) {
    const char *from = end;
    v.part[i] = strtoul(from, &end, 10);
    v.known = end > from && *from != '-' && *from != '+';
    if (*end != '.')
      break;
    end++;
  }
  v.known = v.known && (*end == 0 || *end == '-' || *end == '+');
  return v;
}

static int compare(const struct version *a, const struct version *b)
{
  for (int i = 0; i < 3; i++)
    if (a->part[i] != b->part[i])
      return a->part[i] < b->part[i] ? -1 : 1;
  return 0;
}

static bool read_at(int fd, void *out, size_t size, uint64_t at)
{
  return at <= INT64_MAX && pread(fd, out, size, (off_t)at) == (ssize_t)size;
}

static bool note_of_section(int library, const Elf64_Shdr *section, struct json *note, char **data)
{
  if (section->sh_size < NOTE_HEADER || section->sh_size > MAX_SECTION || !(*data = malloc(section->sh_size)))
    return false;
  uint32_t header[2];
  size_t align = section->sh_addralign ? section->sh_addralign : 4;
  bool good = align <= 4096 && read_at(library, *data, section->sh_size, section->sh_offset);
  if (good) {
    memcpy(header, *data, sizeof header);
    uint64_t name = ((uint64_t)header[0] + align - 1) / align * align, from = NOTE_HEADER + name;
    good = header[0] >= sizeof NOTE_OWNER - 1 && header[1] > 0 && from + header[1] <= section->sh_size &&
           memcmp(*data + NOTE_HEADER, NOTE_OWNER, sizeof NOTE_OWNER - 1) == 0;
    *note = (struct json){*data + from, *data + from + header[1]};
  }
  if (!good) {
    free(*data);
    *data = NULL;
  }
  return good;
}

bool compat_note(int library, struct json *note, char **data)
{
  Elf64_Ehdr header;
  Elf64_Shdr names, section;
  char name[sizeof NOTE_SECTION];
  if (!read_at(library, &header, sizeof header, 0) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_shentsize != sizeof section || !read_at(library, &names, sizeof names, header.e_shoff + (uint64_t)header.e_shstrndx * sizeof names))
    return false;
  for (unsigned i = 0; i < header.e_shnum; i++) {
    if (!read_at(library, &section, sizeof section, header.e_shoff + (uint64_t)i * sizeof section) || section.sh_type != SHT_NOTE)
      continue;
    if (read_at(library, name, sizeof name, names.sh_offset + section.sh_name) && memcmp(name, NOTE_SECTION, sizeof name) == 0)
      return note_of_section(library, &section, note, data);
  }
  return false;
}

static bool wanted_by_note(struct json note, const struct version *compat, const struct version *driver, const struct version *cuda)
{
  struct json value;
  if (compat->known && driver->known)
    return json_field(note, "Driver", &value) && json_has_number(value, (long)driver->part[0]) && compare(compat, driver) > 0;
  char *text = cuda->known && json_field(note, "CUDA Version", &value) ? json_string(value) : NULL;
  struct version own = parse_version(text ? text : "");
  free(text);
  return own.known && compare(&own, cuda) > 0;
}

static bool is_wanted(int library, const char *name, const struct options *options)
{
  struct version compat = parse_version(name + strlen(LIBRARY)), driver = parse_version(options->driver_version), cuda = parse_version(options->cuda_version);
  struct json said;
  char *data = NULL;
  if (compat_note(library, &said, &data)) {
    bool wanted = wanted_by_note(said, &compat, &driver, &cuda);
    free(data);
    return wanted;
  }
  /* A host that names its CUDA version goes by what the library says, and this one says nothing. */
  if (*options->cuda_version || !driver.known || !compat.known)
    return false;
  return driver.part[0] < compat.part[0];
}

/* The one libcuda.so.X.Y of the directory: 1, 0 for none or several, -1. */
static int find_library(int dir, char name[NAME_MAX + 1])
{
  int found = 0, copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *entries = copy < 0 ? NULL : fdopendir(copy);
  if (!entries)
    return -1;
  for (struct dirent *entry; (entry = readdir(entries));) {
    if (fnmatch(LIBRARY "*.*", entry->d_name, 0) != 0)
      continue;
    found++;
    snprintf(name, NAME_MAX + 1, "%s", entry->d_name);
  }
  closedir(entries);
  if (found > 1)
    warn("unexpected number of CUDA compat libraries in the container: %d", found);
  return found == 1;
}

int enable_cuda_compat(int root, const struct options *options)
{
  char name[NAME_MAX + 1], path[PATH_MAX];
  struct stat st;
  if (!*options->driver_version && !*options->cuda_version)
    return 0;
  int dir = open_in(root, options->compat_root, O_PATH | O_DIRECTORY);
  if (dir < 0)
    return 0;
  int found = find_library(dir, name);
  close(dir);
  if (found <= 0)
    return found < 0 ? failed("read %s", options->compat_root) : 0;
  if ((size_t)snprintf(path, sizeof path, "%s/%s", options->compat_root, name) >= sizeof path)
    return refuse("%s: the path is too long", options->compat_root);
  int library = open_in(root, path, O_RDONLY | O_NONBLOCK);
  if (library < 0 || fstat(library, &st) < 0)
    return failed("failed to open CUDA compat library %s", path);
  bool wanted = S_ISREG(st.st_mode) && is_wanted(library, name, options);
  close(library);
  if (!wanted)
    return 0;
  snprintf(path, sizeof path, "%s\n", options->compat_root);
  return write_new_in(root, "/etc/ld.so.conf.d", "00-compat", path);
}
