/*
 * cdi-hook: what NVIDIA's CDI specifications have container runtimes run while a container is made, under the names nvidia-ctk
 * ("nvidia-ctk hook NAME") and nvidia-cdi-hook ("nvidia-cdi-hook NAME"). It reads the container's state from its standard
 * input and of the bundle only root.path; every path of the container is resolved inside its root by the kernel.
 */
#ifndef HOOK_H
#define HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Flags that may be given several times, each with commas in it. */
struct texts { const char **at; size_t count; };

struct options {
  struct texts links, folders, paths;
  const char *root; /* its path on the host */
  const char *mode, *ldconfig, *state, *driver_version, *cuda_version, *compat_root;
};

/* main.c: messages for the one who reads the runtime's log. Both return -1; `failed` adds what errno says. */
int refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
int failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
void note(const char *format, ...) __attribute__((format(printf, 1, 2))); /* with --debug only */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* json.c */
struct json { const char *at, *end; };
/* The value of a field of the object that `of` is; false where there is none, or no object. */
bool json_field(struct json of, const char *name, struct json *value);
/* Into a new string; NULL where `of` is no string or holds a NUL. */
char *json_string(struct json of);
/* Whether `of` is a list with this number in it. */
bool json_has_number(struct json of, long number);

/* state.c */
char *read_all(int fd, size_t limit, size_t *size);      /* NUL-terminated; NULL with errno */
int container_root(const char *state_file, char **root); /* "" or "-": standard input */

/* root.c: `root` is a descriptor of the container's root directory. */
int open_root(const char *path);
int open_in(int root, const char *path, int flags);        /* follows links, inside the root; -1 with errno */
int make_dirs_in(int root, const char *path, mode_t mode); /* a descriptor of the directory */
int write_new_in(int root, const char *dir, const char *prefix, const char *text); /* DIR/PREFIX-RANDOM.conf, 0644 */
void random_name(char out[33]);
int write_all(int fd, const char *text, size_t size);

/* One per hook. 0, or -1 after a message. */
int create_symlinks(int root, const struct options *options);
int change_modes(int root, const struct options *options);
int update_ldcache(int root, const struct options *options);
int enable_cuda_compat(int root, const struct options *options);
int disable_device_node_modification(int root, const struct options *options);
int update_application_profile(int root, const struct options *options);

/* compat.c: the library's word on which drivers it works with; false: none. */
bool compat_note(int library, struct json *note, char **data);

#endif
