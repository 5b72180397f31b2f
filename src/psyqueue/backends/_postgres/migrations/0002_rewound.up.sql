-- phase: pre
-- Counts how often a job came back to a place that others have passed (includes/marks.sql). Clients that do not know it do
-- not count: what they put back is found at the next look at the whole.
CREATE SEQUENCE @schema@.rewound AS bigint;
