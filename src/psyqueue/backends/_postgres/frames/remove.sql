-- Take a whole store away: only for stores that somebody made for himself, such as the demo's.
DROP SCHEMA IF EXISTS @schema@ CASCADE;
