import { expect, test } from 'vitest'
import { assertNaming, hostInterface, machineAddress, slotAddress, slotCapacity } from './slots.ts'

const naming = { instance: 'e2b', addressRange: '10.11.0.0/16', uidBase: 0x7000_0000, runDir: '/run/e2b' }

test('addresses follow the index and never leave the range', () => {
  expect(machineAddress(naming)).toBe('10.11.0.1')
  expect(slotAddress(naming, 0)).toBe('10.11.0.2')
  expect(slotAddress(naming, 254)).toBe('10.11.1.0')
  expect(slotCapacity({ ...naming, addressRange: '192.168.200.128/29' })).toBe(5)
  expect(slotAddress({ ...naming, addressRange: '192.168.200.128/29' }, 4)).toBe('192.168.200.134')
})

test('the uid range ends before the last uid, the interface name within 15 characters', () => {
  const capacity = slotCapacity(naming)
  expect(naming.uidBase + capacity * 65_536).toBeLessThanOrEqual(0xffff_ffff)
  expect(hostInterface({ ...naming, instance: 'abcdefgh' }, slotCapacity(naming)).length).toBeLessThanOrEqual(
    15,
  )
})

test('names and ranges that cannot work are refused with a reason', () => {
  expect(() => assertNaming({ ...naming, instance: 'Über' })).toThrow('instance name')
  expect(() => assertNaming({ ...naming, addressRange: '10.0.0.0/31' })).toThrow('address range')
  expect(() => assertNaming({ ...naming, addressRange: '10.0.0.300/24' })).toThrow('address range')
  expect(() => assertNaming({ ...naming, uidBase: 0xffff_fff0 })).toThrow('no slot fits')
})
