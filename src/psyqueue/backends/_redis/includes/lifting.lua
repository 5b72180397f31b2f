-- Limits as they are forgotten, and with each the bucket of its rate.
local function forget_limits(queue, lane)
  set_field('limits', limit_name(queue, lane), false)
  set_field('buckets', limit_name(queue, lane), false)
  if lane then
    defer('ZREM', P .. 'll:' .. queue, lane)
  end
end

-- After the flush: a queue without jobs is known by its limits, those of its lanes too.
local function note_unlimited(queues)
  for queue in pairs(queues) do
    if not field('limits', limit_name(queue)) and call('EXISTS', P .. 'll:' .. queue) == 0 then
      call('SREM', P .. 'limited', queue)
    end
    note_queue(queue)
  end
end
