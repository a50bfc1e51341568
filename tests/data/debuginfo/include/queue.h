/* A header that brings an inlined function along. */
struct queue { struct queue *next; unsigned int len; };

static inline unsigned int queue_len(const struct queue *queue, unsigned int scale)
{
	unsigned int len = queue->len;

	if (len > 100)
		len = 100;
	return len * scale;
}
