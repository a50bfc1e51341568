/* Included by core.c. */
int part_of_it(struct queue *queue)
{
	sink = 1;
	return queue_len(queue->next, 5);
}
