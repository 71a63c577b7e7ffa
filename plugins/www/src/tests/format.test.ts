import { describe, expect, it } from "vitest";

import { addDays, anything, day, duration, everyDay, instant, interval, metric, percent, plain, pValue } from "../format";

describe("numbers", () => {
  it("have as many decimals as they deserve", () => {
    expect(metric(0.8184)).toBe("0.818");
    expect(metric(0.00123)).toBe("0.00123");
    expect(metric(12.345)).toBe("12.35");
    expect(metric(1234.56)).toBe("1,234.6");
    expect(metric(0)).toBe("0.000");
    expect(metric(null)).toBe("–");
    expect(percent(0.1234)).toBe("12.3%");
    expect(pValue(0.0000021)).toBe("< 0.001");
  });

  it("show their interval if there is one", () => {
    expect(interval({ value: 0.818, lower: 0.803, upper: 0.833 })).toBe("0.818 (0.803 to 0.833)");
    expect(interval({ value: 0.818, lower: null, upper: null })).toBe("0.818");
  });

  it("of unknown kind keep keys as they are", () => {
    expect(anything(1234567)).toBe("1,234,567");
    expect(plain(1234567)).toBe("1234567");
    expect(anything(true)).toBe("yes");
    expect(anything(null)).toBe("–");
    expect(plain({ a: 1 })).toBe('{"a":1}');
  });
});

describe("days and instants", () => {
  it("are named in words, with the zone", () => {
    expect(day("2025-03-09")).toBe("9 Mar 2025");
    expect(instant("2025-03-02T23:30:00Z", "Europe/Berlin")).toBe("3 Mar 2025, 00:30 Europe/Berlin");
    expect(instant("2025-03-02T23:30:00Z")).toBe("2 Mar 2025, 23:30 UTC");
  });

  it("go on over months and leap years", () => {
    expect(addDays("2024-02-28", 1)).toBe("2024-02-29");
    expect(everyDay(["2025-03-02", "2025-02-27"])).toEqual(["2025-02-27", "2025-02-28", "2025-03-01", "2025-03-02"]);
    expect(everyDay([])).toEqual([]);
  });

  it("last as long as people say", () => {
    expect(duration(0.2)).toBe("1 second");
    expect(duration(600)).toBe("10 minutes");
    expect(duration(9000)).toBe("2.5 hours");
    expect(duration(null)).toBe("unknown, none ran yet");
  });
});
