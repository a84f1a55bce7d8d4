/** A pod's machine, as Kata's management interface sees it. Served by whoever runs it: berthd, or a shim. */
export interface ManagedSandbox {
  /** The pod's. */
  readonly id: string;
  /** The Prometheus text format. */
  metrics(): Promise<string>;
  /** As iptables-save(8) says it. */
  iptables(v6: boolean): Promise<Uint8Array>;
  /** As iptables-restore(8) takes it. */
  setIptables(v6: boolean, rules: Uint8Array): Promise<void>;
  /** CSI's NodeGetVolumeStatsResponse as JSON, of a directly assigned volume. */
  volumeStats(path: string): Promise<string>;
  /** Bytes. */
  resizeVolume(path: string, size: number): Promise<void>;
  /** Rego; replaces the one that holds, if that allows it. */
  setPolicy(text: string): Promise<void>;
}
