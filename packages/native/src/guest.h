/* `bosun guest`: PID 1 of a virtual machine, and the guest's end of its channel. */
#ifndef GUEST_H
#define GUEST_H

#include "bosun.h"

/* guest_init.c. Whether this process is the machine's PID 1, started by the kernel as /init or "bosun guest". */
bool guest_is_init(int count, char **arguments);
/* What must be there before bosun can seal itself: a root that can be pivoted from, and /proc. Does not come back from a failure. */
void guest_found(void);
/* guest_root.c. Where the kernel's command line names a root (root=, rootfstype=, rootflags=, init=): goes on as the init in it, and does not come back. */
void guest_switch_root(void);
/* One of the kernel's own file systems, with the flags that it is mounted by everywhere. */
void guest_mount(const char *type, const char *target);
#define GUEST_MODULES "/etc/berth/modules"
/* Those that the file lists, where it is there; `once`: their files go. */
void guest_load_modules(const char *file, bool once);
/* guest_verity.c. The mapped device that the kernel's command line names, if it does. */
void guest_make_mapped(void);
/* The rest of the mounts, the image's modules, the loopback. */
void guest_furnish(void);
/* Says what failed, and switches the machine off: there is nobody to tell it otherwise. */
void guest_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void guest_power_off(void) __attribute__((noreturn));
/* The value of KEY=value on the kernel's command line. False: it is not there. */
bool kernel_argument(const char *key, char *value, size_t size);

/* guest_port.c. The virtio-serial port of this name, as soon as it is there: its descriptor, not blocking. */
int port_wait(const char *name);
/* While nobody is at the port's other end, reading and polling it return at once: what tells then is SIGIO. True: somebody is. */
bool port_attend(int port);

/* uevent.c. Waits until `found` is true, which is asked whenever the kernel tells of a device. False with errno: ETIMEDOUT. */
bool uevent_wait(bool (*found)(void *object), void *object, int timeout_ms);

/* guest.c. `bosun guest [--channel CHANNEL] [--serve SOCKET]`; arguments after the verb. */
int guest_main(char **arguments);

#endif
