/** A plan under construction: orders in their sequence, slots by the need, and what had to give way. */
import { CGROUP_SLOT, SLOTS, type Order, type OrderArguments, type OrderName, type Plan } from "@berth/kernel";
import { PlanError } from "./context.ts";

export class PlanBuilder {
  readonly #orders: Order[] = [];
  readonly warnings: string[] = [];
  #nextSlot = 0;

  /** A new entry of bosun's descriptor table; the cgroup's is not given away. */
  slot(because: string): number {
    if (this.#nextSlot === CGROUP_SLOT) this.#nextSlot++;
    if (this.#nextSlot === SLOTS)
      throw new PlanError(
        because,
        `needs more than the ${SLOTS} descriptors that bosun holds at a time; use fewer bind mounts`,
      );
    return this.#nextSlot++;
  }

  /** `because`: the field of the configuration, or in a few words why. */
  add<N extends OrderName>(order: N, args: OrderArguments<N>, because: string): void {
    this.#orders.push({ order, args, because } as unknown as Order);
  }

  addAll(orders: readonly Order[]): void {
    this.#orders.push(...orders);
  }

  warn(message: string): void {
    this.warnings.push(message);
  }

  plan(): Plan {
    return { orders: this.#orders };
  }
}
