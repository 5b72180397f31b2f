-- How a function is called: one that returns rows, and one that returns a value, which the server need not keep as rows.
-- name: rows
SELECT * FROM @schema@.@name@@v@(@params@)
-- name: value
SELECT @schema@.@name@@v@(@params@)
