/* mandel: a Mandelbrot renderer for WASI, the program that the demo and the tests rent a provider for.
 *
 *   mandel render [COLS ROWS]      draw the whole set, or the scene, as text
 *   mandel scene TEXT              check a scene description and keep it in /work/scene.txt
 *   mandel zoom FRAME TOTAL [TAG]  render frame FRAME of TOTAL of the scene's zoom as an image
 *   mandel note TEXT               append one line to the ledger
 *   mandel ledger                  print the ledger
 *
 * A scene is text, one "key value…" a line:
 *   centre -0.743643887037151 0.131825904205330
 *   width 3.0 0.00001              of the first and of the last frame
 *   size 320 240                   pixels of a frame
 *   iterations 2000                the most iterations spent on a pixel
 *
 * /work/ledger.txt gets a line when a command begins and one when it ends, each with one write:
 * whoever reads it can count how often a command was executed, and how often it was interrupted.
 *
 * Exit codes: 0 done, 1 a file cannot be read or written, 2 the arguments make no sense.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCENE_PATH "/work/scene.txt"
#define LEDGER_PATH "/work/ledger.txt"
#define FRAMES_PATH "/work/frames"
#define SCENE_SIZE_MAX 4096
#define SIDE_MAX 4096
#define ITERATIONS_MAX 10000000
#define FRAMES_MAX 1000
#define LINE_SIZE_MAX 512

enum { DONE = 0, FAILED = 1, MISUSED = 2 };

typedef struct {
    double centre_x, centre_y;
    double width_first, width_last;
    int columns, rows;
    int iterations;
} Scene;

static const Scene WHOLE_SET = {-0.65, 0.0, 3.2, 3.2, 320, 240, 500};

/* Say on standard error what is wrong, and return `code`. */
static int complain(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("mandel: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return code;
}

/* Read a whole number between `least` and `most`; -1 when it is none. */
static int parse_count(const char *text, int least, int most) {
    char *end;
    long value = strtol(text, &end, 10);
    return *text == '\0' || *end != '\0' || value < least || value > most ? -1 : (int)value;
}

/* ---- scenes ---------------------------------------------------------------------------- */

static int parse_scene_line(const char *line, Scene *scene) {
    if (sscanf(line, "centre %lf %lf", &scene->centre_x, &scene->centre_y) == 2) return 1;
    if (sscanf(line, "width %lf %lf", &scene->width_first, &scene->width_last) == 2)
        return scene->width_first > 0 && scene->width_last > 0;
    if (sscanf(line, "size %d %d", &scene->columns, &scene->rows) == 2)
        return scene->columns > 0 && scene->columns <= SIDE_MAX && scene->rows > 0 &&
               scene->rows <= SIDE_MAX;
    if (sscanf(line, "iterations %d", &scene->iterations) == 1)
        return scene->iterations > 0 && scene->iterations <= ITERATIONS_MAX;
    return 0;
}

static int parse_scene(const char *text, Scene *scene) {
    char copy[SCENE_SIZE_MAX];
    if (strlen(text) >= sizeof copy)
        return complain(MISUSED, "a scene has at most %d bytes", SCENE_SIZE_MAX - 1);
    strcpy(copy, text);
    *scene = WHOLE_SET;
    for (char *line = strtok(copy, "\n"); line; line = strtok(NULL, "\n"))
        if (!parse_scene_line(line, scene))
            return complain(MISUSED, "the scene line \"%s\" makes no sense", line);
    return DONE;
}

/* Load the scene that was kept; without one it is the whole set. */
static int load_scene(Scene *scene) {
    char text[SCENE_SIZE_MAX];
    FILE *file = fopen(SCENE_PATH, "r");
    if (!file) {
        *scene = WHOLE_SET;
        return DONE;
    }
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = '\0';
    return parse_scene(text, scene);
}

static int keep_scene(const char *text) {
    Scene scene;
    int code = parse_scene(text, &scene);
    if (code != DONE) return code;
    FILE *file = fopen(SCENE_PATH, "w");
    if (!file) return complain(FAILED, "%s: %s", SCENE_PATH, strerror(errno));
    int written = fputs(text, file) >= 0;
    if (fclose(file) != 0 || !written)
        return complain(FAILED, "%s: %s", SCENE_PATH, strerror(errno));
    printf("scene: %dx%d pixels around %.15g%+.15gi, %d iterations\n", scene.columns, scene.rows,
           scene.centre_x, scene.centre_y, scene.iterations);
    return DONE;
}

/* ---- the set --------------------------------------------------------------------------- */

/* Count the iterations until z := z*z + c leaves the circle of radius 2; `most` if it does not. */
static int escape_time(double x, double y, int most) {
    double zx = 0, zy = 0, zx2 = 0, zy2 = 0;
    int count = 0;
    while (count < most && zx2 + zy2 <= 4.0) {
        zy = 2 * zx * zy + y;
        zx = zx2 - zy2 + x;
        zx2 = zx * zx;
        zy2 = zy * zy;
        count++;
    }
    return count;
}

static int render(int columns, int rows) {
    static const char SHADES[] = " .:-=+*%#";
    Scene scene;
    int code = load_scene(&scene);
    if (code != DONE) return code;
    double step = scene.width_first / columns;
    for (int row = 0; row < rows; row++) {
        for (int column = 0; column < columns; column++) {
            /* A letter is about twice as high as wide. */
            double x = scene.centre_x + (column - (columns - 1) / 2.0) * step;
            double y = scene.centre_y + (row - (rows - 1) / 2.0) * step * 2;
            int count = escape_time(x, y, scene.iterations);
            int shade = (int)(log2((double)count) * 1.1);
            if (shade > 7) shade = 7;
            putchar(count == scene.iterations ? '@' : SHADES[shade]);
        }
        putchar('\n');
    }
    return DONE;
}

static void draw_frame(const Scene *scene, double width, uint8_t *pixels) {
    double step = width / scene->columns;
    for (int row = 0; row < scene->rows; row++)
        for (int column = 0; column < scene->columns; column++) {
            double x = scene->centre_x + (column - scene->columns / 2.0) * step;
            double y = scene->centre_y + (row - scene->rows / 2.0) * step;
            int count = escape_time(x, y, scene->iterations);
            *pixels++ = count == scene->iterations ? 0 : (uint8_t)(55 + count * 8 % 200);
        }
}

/* ---- files ----------------------------------------------------------------------------- */

static uint32_t crc32_of(const uint8_t *data, size_t size) {
    uint32_t crc = ~0u;
    while (size--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* Append one line to the ledger in one write, and to the disk. */
static int note(const char *format, ...) {
    char line[LINE_SIZE_MAX];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (size < 0 || size >= (int)sizeof line - 1)
        return complain(MISUSED, "a line of the ledger has at most %d bytes", LINE_SIZE_MAX - 2);
    line[size++] = '\n';
    int ledger = open(LEDGER_PATH, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (ledger < 0) return complain(FAILED, "%s: %s", LEDGER_PATH, strerror(errno));
    int kept = write(ledger, line, size) == size && fsync(ledger) == 0;
    if (close(ledger) != 0 || !kept)
        return complain(FAILED, "%s: %s", LEDGER_PATH, strerror(errno));
    return DONE;
}

static int print_ledger(void) {
    char block[4096];
    size_t size;
    FILE *file = fopen(LEDGER_PATH, "r");
    if (!file) return errno == ENOENT ? DONE : complain(FAILED, "%s: %s", LEDGER_PATH, strerror(errno));
    while ((size = fread(block, 1, sizeof block, file)) > 0) fwrite(block, 1, size, stdout);
    fclose(file);
    return DONE;
}

static int write_file(const char *path, const uint8_t *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file) return complain(FAILED, "%s: %s", path, strerror(errno));
    int written = fwrite(data, 1, size, file) == size;
    if (fclose(file) != 0 || !written) return complain(FAILED, "%s: %s", path, strerror(errno));
    return DONE;
}

/* Render one frame of the zoom as /work/frames/frame-NNN.pgm and print its CRC-32. */
static int zoom(int frame, int total, const char *tag) {
    Scene scene;
    char path[64];
    int code = load_scene(&scene);
    if (code != DONE) return code;
    if ((code = note("begin frame %d of %d %s", frame, total, tag)) != DONE) return code;

    double part = total > 1 ? (frame - 1) / (double)(total - 1) : 0;
    double width = scene.width_first * pow(scene.width_last / scene.width_first, part);
    size_t pixels = (size_t)scene.columns * scene.rows;
    uint8_t *image = malloc(pixels + 32);
    if (!image) return complain(FAILED, "no memory for %zu pixels", pixels);
    int head = sprintf((char *)image, "P5\n%d %d\n255\n", scene.columns, scene.rows);
    draw_frame(&scene, width, image + head);

    if (mkdir(FRAMES_PATH, 0755) != 0 && errno != EEXIST)
        return complain(FAILED, "%s: %s", FRAMES_PATH, strerror(errno));
    snprintf(path, sizeof path, FRAMES_PATH "/frame-%03d.pgm", frame);
    if ((code = write_file(path, image, head + pixels)) != DONE) return code;
    uint32_t crc = crc32_of(image, head + pixels);
    free(image);
    if ((code = note("end frame %d of %d %s", frame, total, tag)) != DONE) return code;
    printf("frame %3d of %d  width %-12.6g crc32 %08x  %s\n", frame, total, width, crc, path);
    return DONE;
}

/* ---- commands -------------------------------------------------------------------------- */

static int run_render(int count, char **arguments) {
    int columns = count > 0 ? parse_count(arguments[0], 1, SIDE_MAX) : 78;
    int rows = count > 1 ? parse_count(arguments[1], 1, SIDE_MAX) : 24;
    if (columns < 0 || rows < 0)
        return complain(MISUSED, "render takes COLS and ROWS between 1 and %d", SIDE_MAX);
    return render(columns, rows);
}

static int run_zoom(int count, char **arguments) {
    int total = count > 1 ? parse_count(arguments[1], 1, FRAMES_MAX) : -1;
    int frame = total > 0 ? parse_count(arguments[0], 1, total) : -1;
    if (frame < 0)
        return complain(MISUSED, "zoom takes FRAME and TOTAL, 1 <= FRAME <= TOTAL <= %d", FRAMES_MAX);
    return zoom(frame, total, count > 2 ? arguments[2] : "-");
}

int main(int count, char **arguments) {
    const char *command = count > 1 ? arguments[1] : "";
    if (!strcmp(command, "render")) return run_render(count - 2, arguments + 2);
    if (!strcmp(command, "scene") && count == 3) return keep_scene(arguments[2]);
    if (!strcmp(command, "zoom")) return run_zoom(count - 2, arguments + 2);
    if (!strcmp(command, "note") && count == 3) return note("%s", arguments[2]);
    if (!strcmp(command, "ledger")) return print_ledger();
    return complain(MISUSED, "use: render [COLS ROWS] | scene TEXT | zoom FRAME TOTAL [TAG] | "
                             "note TEXT | ledger");
}
