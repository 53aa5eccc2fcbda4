"""What `mrcnn doctor` finds out and thinks of it: `machine` gathers facts, the others judge them.

The judges are pure functions from a `Machine` to a `Row`, so that a test can make up any kind of machine.
"""
