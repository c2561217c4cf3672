//! One engine runs every rule of the policy: it scans, leaves out what is held or guarded, stops at caps, acts under the
//! repeated predicate, and leaves evidence. What it does to a row is in a file for each action.
