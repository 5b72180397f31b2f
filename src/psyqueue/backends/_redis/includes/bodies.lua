-- Bodies: b:<id> → a mark, the creation number, a space, the instant of creation; then what the client wrote: lengths of
-- payload, cold and digest; these three; then what no script reads.
-- Mark and number spare the usual start a look at the row: an entry of a list that names the number of a FRESH body is
-- that of a plain job that is pending. Whatever makes the job another one marks its body.
local FRESH, OTHER = 'f', 'o'

-- What follows the number, of 14 bytes.
local function instant_of(created_ms)
  local digits = text_of_ms(created_ms)
  return #digits == 13 and ' ' .. digits or ' ' .. sub(ZEROS, #digits + 4) .. digits
end

-- Whether the body is that of a plain job with this creation number.
local function is_fresh(body, number_text)
  return find(body, FRESH .. number_text .. ' ', 1, true) == 1 and #body >= #number_text + 27
end

-- Where what the client wrote begins; nil in a body that is not ours.
local function client_part_at(body)
  local space = string.find(body, ' ', 1, true)
  return space and #body >= space + 25 and space + 14 or nil
end

-- Where payload, cold and digest begin and the last one ends; nothing for a body that is not ours.
local function parts_of(body)
  local at = body and client_part_at(body)
  if not at then
    return nil
  end
  local payload, cold, digest = struct.unpack('<I4I4I4', body, at)
  local cold_at = at + 12 + payload
  return at + 12, cold_at, cold_at + cold, cold_at + cold + digest - 1
end
