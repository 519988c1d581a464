/* Stands in for Pyxis in the tests: the options of srun that our job scripts use, on real mounts. Tests only.
 *
 *   srun --container-image=FILE.sqsh --container-mounts=SRC:DST[:ro],... --container-workdir=DIR
 *        --no-container-mount-home --container-env=NAME,... COMMAND
 *
 * The image is a squashfs file under a writable overlay. Arguments in plugstack.conf are mounts of the site, as
 * Enroot has in its mounts.d: mount=SRC:DST (read-only). An image made by the tests has no variables of its own, so
 * --container-env has nothing to win over.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <slurm/spank.h>

SPANK_PLUGIN(test_container, 1)

#define BASE "/mnt"
#define ROOT BASE "/root"

enum { IMAGE, MOUNTS, WORKDIR, ENVIRONMENT, NO_HOME, OPTIONS };
static char *given[OPTIONS];

static int take(int option, const char *value, int remote)
{
    (void)remote;
    given[option] = strdup(value ? value : "");
    return 0;
}

static struct spank_option options[OPTIONS] = {
    {"container-image", "PATH", "squashfs file to run in", 1, IMAGE, take},
    {"container-mounts", "SRC:DST[:ro],...", "what to mount in it", 1, MOUNTS, take},
    {"container-workdir", "PATH", "where the command starts", 1, WORKDIR, take},
    {"container-env", "NAME,...", "variables of the job that win", 1, ENVIRONMENT, take},
    {"no-container-mount-home", NULL, "leave the home directory out", 0, NO_HOME, take},
};

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int option = 0; option < OPTIONS; option++)
        if (spank_option_register(spank, &options[option]) != ESPANK_SUCCESS)
            return -1;
    return 0;
}

static void make_folders(const char *path)
{
    char part[4096];
    snprintf(part, sizeof part, "%s/", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(part, 0755);
        *slash = '/';
    }
}

/* Mount a folder or file of the node inside the container. */
static int bind(const char *source, const char *destination, int read_only)
{
    char inside[4096];
    struct stat facts;
    if (stat(source, &facts)) {
        slurm_error("container: --container-mounts: source path does not exist: %s", source);
        return -1;
    }
    snprintf(inside, sizeof inside, ROOT "%s", destination);
    if (S_ISDIR(facts.st_mode)) {
        make_folders(inside);
    } else {
        FILE *file = fopen(inside, "a");
        if (file)
            fclose(file);
    }
    if (mount(source, inside, NULL, MS_BIND | MS_REC, NULL)
        || (read_only && mount(NULL, inside, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL))) {
        slurm_error("container: cannot mount %s on %s: %m", source, destination);
        return -1;
    }
    return 0;
}

/* Mount SRC:DST[:ro]. */
static int bind_text(const char *text, int read_only)
{
    char *source = strdup(text), *destination = strchr(source, ':'), *mode = NULL;
    int status;
    if (destination) {
        *destination++ = 0;
        mode = strchr(destination, ':');
        if (mode)
            *mode++ = 0;
    }
    status = bind(source, destination ? destination : source, read_only || (mode && !strcmp(mode, "ro")));
    free(source);
    return status;
}

static int mount_squashfs(const char *image, const char *place)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/mount", "mount", "-t", "squashfs", "-o", "loop,ro", image, place, (char *)NULL);
        _exit(127);
    }
    return child < 0 || waitpid(child, &status, 0) < 0 || status ? -1 : 0;
}

static int mount_image(const char *image)
{
    /* The folders come to be on a tmpfs that only this task sees. */
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)
        || mount("tmpfs", BASE, "tmpfs", 0, "mode=755")) {
        slurm_error("container: cannot set up mounts: %m");
        return -1;
    }
    mkdir(BASE "/image", 0755);
    mkdir(BASE "/upper", 0755);
    mkdir(BASE "/work", 0755);
    mkdir(ROOT, 0755);
    if (mount_squashfs(image, BASE "/image")
        || mount("overlay", ROOT, "overlay", 0, "lowerdir=" BASE "/image,upperdir=" BASE "/upper,workdir=" BASE "/work")) {
        slurm_error("container: failed to create container filesystem for image %s", image);
        return -1;
    }
    return 0;
}

/* As root, before the task takes on its user. */
int slurm_spank_task_init_privileged(spank_t spank, int argc, char **argv)
{
    static const char *const of_node[] = {
        "/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group"};
    (void)spank;
    if (!given[IMAGE])
        return 0;
    if (mount_image(given[IMAGE]))
        return -1;
    for (size_t i = 0; i < sizeof of_node / sizeof *of_node; i++)
        if (bind(of_node[i], of_node[i], 0))
            return -1;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "mount=", 6) && bind_text(argv[i] + 6, 1))
            return -1;
    for (char *text = given[MOUNTS] ? strtok(given[MOUNTS], ",") : NULL; text; text = strtok(NULL, ","))
        if (bind_text(text, 0))
            return -1;
    make_folders(ROOT "/tmp");
    if (chroot(ROOT) || chdir("/")) {
        slurm_error("container: cannot enter %s: %m", given[IMAGE]);
        return -1;
    }
    return 0;
}

/* As the user, just before the command starts. */
int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    if (!given[IMAGE])
        return 0;
    if (chdir(given[WORKDIR] ? given[WORKDIR] : "/")) {
        slurm_error("container: no working directory %s: %m", given[WORKDIR]);
        return -1;
    }
    return spank_setenv(spank, "PATH", "/usr/local/bin:/usr/bin:/bin", 1) == ESPANK_SUCCESS ? 0 : -1;
}
