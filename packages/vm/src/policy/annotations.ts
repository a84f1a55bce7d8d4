/** Annotations by which a pod brings a policy of its own: no keys of the configuration. */
export const POLICY_ANNOTATION = "io.katacontainers.config.agent.policy";
/** Only where the configuration's enable_annotations names cc_init_data. */
export const INIT_DATA_ANNOTATION = "io.katacontainers.config.hypervisor.cc_init_data";
