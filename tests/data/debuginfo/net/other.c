/* Another unit. */
#include "../include/queue.h"

int __attribute__((noinline)) outside(int value)
{
	__asm__ volatile("" ::: "memory");
	return value ^ 5;
}

unsigned int measure(struct queue *first)
{
	unsigned int sum = 0;

	for (; first; first = first->next)
		sum += queue_len(first, sum);
	return sum;
}
