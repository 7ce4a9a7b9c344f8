/* A plugin for qemu-user that counts guest instructions: qemu-aarch64 -plugin libcount_instructions.so,out=FILE ...
 *
 * When the guest ends, FILE holds the number as text. Every translated block adds its length to a counter when it
 * starts; guest threads that run at the same time share the counter without locks, so count on one thread.
 *
 * Debian ships no header for plugins; what is declared here is version 1 of qemu's interface (qemu 4.2 and later).
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translate_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*exit_callback)(qemu_plugin_id_t, void *);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t plugin, translate_callback callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum qemu_plugin_op op, void *counter,
                                              uint64_t amount);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t plugin, exit_callback callback, void *data);

EXPORT int qemu_plugin_version = 1;

static uint64_t instructions;
static char output[4096];

static void block_translated(qemu_plugin_id_t plugin, struct qemu_plugin_tb *block) {
  (void)plugin;
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &instructions,
                                           qemu_plugin_tb_n_insns(block));
}

static void guest_ended(qemu_plugin_id_t plugin, void *data) {
  (void)plugin;
  (void)data;
  FILE *file = fopen(output, "w");
  if (file == NULL) return;
  fprintf(file, "%llu\n", (unsigned long long)instructions);
  fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t plugin, const struct qemu_info *info, int count, char **options) {
  (void)info;
  for (int i = 0; i < count; ++i) {
    if (strncmp(options[i], "out=", 4) == 0) snprintf(output, sizeof output, "%s", options[i] + 4);
  }
  if (output[0] == 0) {
    fprintf(stderr, "count_instructions: option out=FILE is missing\n");
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(plugin, block_translated);
  qemu_plugin_register_atexit_cb(plugin, guest_ended, NULL);
  return 0;
}
